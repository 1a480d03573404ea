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

{{/* Quantities are strings: server-side apply refuses numbers. Of `resources`, `gpu` and how many of them. */}}
{{- define "nimble-coder.resources" -}}
{{- $limits := .resources.limits | default dict }}
{{- if .gpus }}
{{- $limits = set (deepCopy $limits) .gpu.resource .gpus }}
{{- end }}
{{- range $kind, $quantities := dict "requests" .resources.requests "limits" $limits }}
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
{{- $drain := (include "nimble-coder.settings" . | fromYaml).drain_seconds }}
{{- if kindIs "invalid" $drain }}{{ $drain = 30.0 }}{{ end }}
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
{{- if and .Values.build.enabled (not .Values.build.downloadOnly) (not (hasKey $settings "build_on_start")) }}
{{- $_ := set $settings "build_on_start" false }}
{{- end }}
{{- /* A pod that is taken away while it streams may finish, however long that takes; one that idles ends at once. */}}
{{- if and .Values.autoscaling.enabled (not (hasKey $settings "drain_seconds")) }}
{{- $_ := set $settings "drain_seconds" 600 }}
{{- end }}
{{- toYaml $settings }}
{{- end }}

{{/* At once where there is load, one pod a minute where there has been none for so many seconds. */}}
{{- define "nimble-coder.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
scaleDown:
  stabilizationWindowSeconds: {{ . }}
  policies:
    - type: Pods
      value: 1
      periodSeconds: 60
{{- end }}

{{/* What the hub is asked with. */}}
{{- define "nimble-coder.hubToken" -}}
{{- with .Values.huggingFace }}
{{- if .secret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end }}
