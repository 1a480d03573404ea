{{/* Values that are right one by one, but cannot work together. */}}
{{- define "nimble-coder.checks" -}}
{{- $name := include "nimble-coder.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "%s cannot be the name of a Service, which begins with a letter and has no dots: set fullnameOverride" $name) }}
{{- end }}
{{- $gpus := int .Values.gpu.count }}
{{- $settings := .Values.settings | default dict }}
{{- $profile := $settings.model_profile | default "" }}
{{- $named := regexFind "-tp[0-9]+" $profile | trimPrefix "-tp" | default "1" | int }}
{{- $ranks := $settings.tensor_parallel_size | default $named | int }}
{{- with .Values.multiNode }}
{{- if .enabled }}
{{- if or (not $gpus) (hasSuffix "-cuda" $.Values.image.suffix) (contains "-torch-" $profile) }}
{{- fail "multiNode.enabled is for engines of TensorRT-LLM: the portable engine runs on one device" }}
{{- end }}
{{- if ne $ranks (mul .nodes $gpus | int) }}
{{- fail (printf "multiNode.nodes is %v and gpu.count %d, but the engine of settings.model_profile is split over %d GPUs: their product has to be that" .nodes $gpus $ranks) }}
{{- end }}
{{- if or (not .store) (not $.Values.cache.existingClaim) }}
{{- fail "multiNode.enabled needs cache.existingClaim and in multiNode.store the directory there that `nimble-coder create-model-store --gpus-per-node` has written" }}
{{- end }}
{{- if $.Values.autoscaling.enabled }}
{{- fail "autoscaling.enabled is for a Deployment, multiNode.enabled makes a LeaderWorkerSet: set replicas, which are whole groups" }}
{{- end }}
{{- if $.Values.build.enabled }}
{{- fail "build.enabled builds for one node, multiNode.enabled serves what was built before: choose one" }}
{{- end }}
{{- if $.Values.strategy }}
{{- fail "strategy is a Deployment's: a LeaderWorkerSet replaces one group after the other" }}
{{- end }}
{{- if include "nimble-coder.cacheIsForOnePod" $ }}
{{- fail (printf "cache.accessMode is %s, but multiNode.enabled needs a volume that every node can mount" $.Values.cache.accessMode) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (gt $gpus 1) (hasSuffix "-cuda" .Values.image.suffix) }}
{{- fail (printf "gpu.count is %d, but the portable engine of the image %s runs on one device" $gpus .Values.image.suffix) }}
{{- end }}
{{- if and (gt $ranks 1) (lt $gpus $ranks) (not .Values.multiNode.enabled) }}
{{- fail (printf "gpu.count is %d, but the engine is split over %d GPUs: set gpu.count=%d" $gpus $ranks $ranks) }}
{{- end }}
{{- $unit := ternary 1024 1 (hasSuffix "Gi" .Values.sharedMemory) }}
{{- if and (gt $gpus 1) (lt (mul (regexFind "^[0-9]+" .Values.sharedMemory | int) $unit) 1024) }}
{{- fail (printf "sharedMemory is %s, but the ranks of an engine on %d GPUs need 1Gi or more" .Values.sharedMemory $gpus) }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if and .keda.enabled (not .enabled) }}
{{- fail "autoscaling.keda.enabled needs autoscaling.enabled" }}
{{- end }}
{{- if and .enabled (not (int .minReplicas)) (not (and .keda.enabled .keda.triggers)) }}
{{- fail "autoscaling.minReplicas is 0: that needs autoscaling.keda.enabled, and in autoscaling.keda.triggers one that sees requests while there is no pod" }}
{{- end }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "autoscaling.minReplicas is %v, more than autoscaling.maxReplicas, which is %v" .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
{{- if and (include "nimble-coder.cacheIsForOnePod" .) (or .Values.autoscaling.enabled (gt (int .Values.replicas) 1)) }}
{{- fail (printf "cache.accessMode is %s, which only one pod can mount, but there are to be several: use ReadWriteMany, or an image that carries its engine and cache.enabled=false" .Values.cache.accessMode) }}
{{- end }}
{{- if and .Values.cache.enabled (eq .Values.cache.accessMode "ReadOnlyMany") (not .Values.cache.existingClaim) }}
{{- fail "cache.accessMode is ReadOnlyMany, but a new claim is empty: name a filled one in cache.existingClaim" }}
{{- end }}
{{- if and .Values.cache.existingClaim (not .Values.cache.enabled) (not .Values.build.enabled) }}
{{- fail "cache.existingClaim names a claim, but cache.enabled is false, which mounts none: choose one" }}
{{- end }}
{{- if and .Values.build.downloadOnly (not .Values.build.enabled) }}
{{- fail "build.downloadOnly is about the Job that build.enabled makes: set both" }}
{{- end }}
{{- if and .Values.build.enabled (not .Values.cache.existingClaim) }}
{{- fail "build.enabled needs cache.existingClaim: the Job runs before Helm has made anything else of the release" }}
{{- end }}
{{- if and .Values.build.enabled (eq .Values.cache.accessMode "ReadWriteOncePod") }}
{{- fail "cache.accessMode is ReadWriteOncePod, but the Job of an upgrade writes beside the pod: use ReadWriteOnce or ReadWriteMany" }}
{{- end }}
{{- if and .Values.build.enabled .Values.build.downloadOnly (not $profile) (not $settings.model_name) }}
{{- fail "build.downloadOnly needs settings.model_profile or settings.model_name: without a GPU the Job cannot choose for the pods" }}
{{- end }}
{{- if and .Values.build.enabled (not .Values.cache.enabled) }}
{{- fail "build.enabled needs cache.enabled: there is nothing to fill" }}
{{- end }}
{{- if and .Values.apiKeys.secret (not .Values.auth.enabled) }}
{{- fail "apiKeys.secret names keys, but auth.enabled is false, which lets everybody in: choose one" }}
{{- end }}
{{- if and .Values.tls.clientCaSecret (not .Values.tls.secret) }}
{{- fail "tls.clientCaSecret needs tls.secret: clients' certificates are asked for under TLS only" }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if regexMatch "^(NIMBLE_(CONFIG|DRAIN_SECONDS|(HTTP|GRPC|METRICS)_PORT)|NIM_(SERVER|HTTP_API|GRPC_API)_PORT)$" .name }}
{{- fail (printf "extraEnv sets %s, by which probes, Services and the grace period go: they know settings, and the usual ports" .name) }}
{{- end }}
{{- if or (and (eq .name "HF_TOKEN") $.Values.huggingFace.secret) (and (eq .name "NIMBLE_ADMIN_KEY") $.Values.adminKey.secret) }}
{{- fail (printf "extraEnv sets %s, which huggingFace.secret or adminKey.secret sets too: choose one" .name) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.enabled needs ingress.hosts" }}
{{- end }}
{{- with .Values.gateway }}
{{- if and .parentRefs (not .httpHostnames) (not .grpcHostnames) }}
{{- fail "gateway.parentRefs needs gateway.httpHostnames, gateway.grpcHostnames or both" }}
{{- end }}
{{- if and (not .parentRefs) (or .httpHostnames .grpcHostnames) }}
{{- fail "gateway.httpHostnames and grpcHostnames need gateway.parentRefs: the Gateways that are to serve them" }}
{{- end }}
{{- range .httpHostnames }}
{{- if has . $.Values.gateway.grpcHostnames }}
{{- fail (printf "gateway: %s is a host name of HTTP and of gRPC, of which a Gateway accepts only one: give them different names" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
