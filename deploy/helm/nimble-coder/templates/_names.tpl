{{/* What things are called and how they find each other. */}}

{{- define "nimble-coder.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "nimble-coder.release" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of the pods that serve, and of nothing else. */}}
{{- define "nimble-coder.selector" -}}
{{ include "nimble-coder.release" . }}
app.kubernetes.io/component: server
{{- end }}

{{/* Of leaders and workers, where an engine is on several nodes. */}}
{{- define "nimble-coder.group" -}}
matchLabels:
  {{- include "nimble-coder.release" . | nindent 2 }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [server, worker]
{{- end }}

{{- define "nimble-coder.labels" -}}
{{ include "nimble-coder.release" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "nimble-coder.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "nimble-coder.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "nimble-coder.image" -}}
{{- $suffix := .Values.image.suffix | default (ternary "" "-cpu" (gt (int .Values.gpu.count) 0)) }}
{{- $default := printf "%s%s" .Chart.AppVersion $suffix }}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $default) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "nimble-coder.claim" -}}
{{- .Values.cache.existingClaim | default (printf "%s-cache" (include "nimble-coder.fullname" .)) }}
{{- end }}

{{/* The Secret with the keys of clients: the one that is named, or the chart's own; empty where there are none. */}}
{{- define "nimble-coder.keysSecret" -}}
{{- if .Values.auth.enabled }}
{{- .Values.apiKeys.secret | default (printf "%s-keys" (include "nimble-coder.fullname" .)) }}
{{- end }}
{{- end }}
