{{/* The pod that serves, and the parts of it that others have too. */}}

{{/* As a template of the Deployment or, with multiNode, of the leaders of a LeaderWorkerSet. */}}
{{- define "nimble-coder.podTemplate" -}}
metadata:
  labels:
    {{- include "nimble-coder.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/settings: {{ include "nimble-coder.settings" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "nimble-coder.podSettings" . | trim | nindent 2 }}
  {{- if .Values.multiNode.enabled }}
  initContainers:
    {{- include "nimble-coder.waitForWorkers" . | trim | nindent 4 }}
  {{- end }}
  containers:
    - name: nimble-coder
      image: {{ include "nimble-coder.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if .Values.multiNode.enabled }}
      args: [serve, {{ printf "/opt/nim/.cache/%s" .Values.multiNode.store | quote }}]
      {{- end }}
      env:
        - name: NIMBLE_CONFIG
          value: /etc/nimble-coder/settings/settings.yaml
        {{- if .Values.multiNode.enabled }}
        {{- include "nimble-coder.mpi" . | trim | nindent 8 }}
        {{- end }}
        {{- include "nimble-coder.hubToken" . | nindent 8 }}
        {{- with .Values.adminKey }}
        {{- if .secret }}
        - name: NIMBLE_ADMIN_KEY
          valueFrom:
            secretKeyRef:
              name: {{ .secret }}
              key: {{ .key }}
        {{- end }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: http
          containerPort: 8000
          protocol: TCP
        - name: grpc
          containerPort: 8001
          protocol: TCP
        - name: metrics
          containerPort: 8002
          protocol: TCP
      # On the metrics port, which asks probes for neither keys nor certificates.
      startupProbe:
        httpGet:
          path: /v1/health/ready
          port: metrics
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: {{ mul .Values.startupMinutes 12 }}
      readinessProbe:
        httpGet:
          path: /v1/health/ready
          port: metrics
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      livenessProbe:
        httpGet:
          path: /v1/health/live
          port: metrics
        periodSeconds: 10
        timeoutSeconds: 10
        failureThreshold: 3
      lifecycle:
        preStop:
          # Until no Service sends requests here any more.
          exec:
            command: [sleep, {{ include "nimble-coder.preStopSeconds" . | quote }}]
      {{- with include "nimble-coder.resources" (dict "resources" .Values.resources "gpu" .Values.gpu "gpus" .Values.gpu.count) | trim }}
      resources:
        {{- . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: settings
          mountPath: /etc/nimble-coder/settings
          readOnly: true
        - name: cache
          mountPath: /opt/nim/.cache
          {{- if eq .Values.cache.accessMode "ReadOnlyMany" }}
          readOnly: true
          {{- end }}
        - name: shared-memory
          mountPath: /dev/shm
        - name: tmp
          mountPath: /tmp
        {{- if .Values.multiNode.enabled }}
        {{- include "nimble-coder.ranksMount" . | trim | nindent 8 }}
        {{- end }}
        {{- if .Values.auth.enabled }}
        - name: keys
          mountPath: /etc/nimble-coder/keys
          readOnly: true
        {{- end }}
        {{- if .Values.tls.secret }}
        - name: tls
          mountPath: /etc/nimble-coder/tls
          readOnly: true
        {{- end }}
        {{- if .Values.tls.clientCaSecret }}
        - name: client-ca
          mountPath: /etc/nimble-coder/client-ca
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: settings
      configMap:
        name: {{ include "nimble-coder.fullname" . }}-settings
    {{- include "nimble-coder.workVolumes" . | trim | nindent 4 }}
    {{- if .Values.multiNode.enabled }}
    {{- include "nimble-coder.ranksVolume" . | nindent 4 }}
    {{- end }}
    {{- with include "nimble-coder.keysSecret" . }}
    - name: keys
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.tls.secret }}
    - name: tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.tls.clientCaSecret }}
    - name: client-ca
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "nimble-coder.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Who it runs as, and how. */}}
{{- define "nimble-coder.podSettings" -}}
serviceAccountName: {{ include "nimble-coder.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "nimble-coder.graceSeconds" . }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where it runs. */}}
{{- define "nimble-coder.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The volumes that it writes to. */}}
{{- define "nimble-coder.workVolumes" -}}
- name: cache
  {{- if .Values.cache.enabled }}
  persistentVolumeClaim:
    claimName: {{ include "nimble-coder.claim" . }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.cache.size }}
  {{- end }}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.sharedMemory }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.temporary }}
{{- end }}

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
{{- /* Whoever reaches the API would read them. */}}
{{- if not (hasKey $settings "metrics_on_http_port") }}{{ $_ := set $settings "metrics_on_http_port" false }}{{ end }}
{{- if .Values.metrics.perKey }}{{ $_ := set $settings "metrics_per_key" true }}{{ end }}
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
