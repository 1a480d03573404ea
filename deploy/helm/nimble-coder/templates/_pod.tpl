{{/* The parts of the pod that are computed. */}}

{{/* Not empty where the volume cannot be mounted by two pods. */}}
{{- define "nimble-coder.cacheIsForOnePod" -}}
{{- if and .Values.cache.enabled (hasPrefix "ReadWriteOnce" .Values.cache.accessMode) }}yes{{ end }}
{{- end }}

{{- define "nimble-coder.strategy" -}}
{{- if .Values.strategy }}
{{- toYaml .Values.strategy }}
{{- else if include "nimble-coder.cacheIsForOnePod" . }}
type: Recreate
{{- else }}
type: RollingUpdate
rollingUpdate:
  maxSurge: 1
  maxUnavailable: 0
{{- end }}
{{- end }}

{{/* Quantities are strings: server-side apply refuses numbers. */}}
{{- define "nimble-coder.resources" -}}
{{- $limits := .Values.resources.limits | default dict }}
{{- if .Values.gpu.count }}
{{- $limits = set (deepCopy $limits) .Values.gpu.resource .Values.gpu.count }}
{{- end }}
{{- range $kind, $quantities := dict "requests" .Values.resources.requests "limits" $limits }}
{{- with $quantities }}
{{ $kind }}:
  {{- range $name, $quantity := . }}
  {{ $name }}: {{ $quantity | toString | quote }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of the shutdown: what runs has drain_seconds, Triton 10 s more. */}}
{{- define "nimble-coder.preStopSeconds" -}}5{{- end }}
{{- define "nimble-coder.graceSeconds" -}}
{{- $drain := 30.0 }}
{{- with .Values.settings }}{{ if hasKey . "drain_seconds" }}{{ $drain = .drain_seconds }}{{ end }}{{ end }}
{{- add (ceil $drain) 10 (include "nimble-coder.preStopSeconds" .) }}
{{- end }}

{{/* The settings file: what was chosen, and where the chart mounts what belongs to it. */}}
{{- define "nimble-coder.settings" -}}
{{- $settings := deepCopy (.Values.settings | default dict) }}
{{- with .Values.apiKeys }}
{{- if $.Values.auth.enabled }}{{ $_ := set $settings "api_keys_file" (printf "/etc/nimble-coder/keys/%s" .key) }}{{ end }}
{{- end }}
{{- with .Values.tls }}
{{- if .secret }}
{{- $_ := set $settings "tls_certificate" "/etc/nimble-coder/tls/tls.crt" }}
{{- $_ := set $settings "tls_key" "/etc/nimble-coder/tls/tls.key" }}
{{- end }}
{{- if .clientCaSecret }}{{ $_ := set $settings "tls_client_ca" "/etc/nimble-coder/client-ca/ca.crt" }}{{ end }}
{{- end }}
{{- toYaml $settings }}
{{- end }}
