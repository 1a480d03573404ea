{{/* Several nodes for one engine: its ranks are started by mpirun over ssh, whose key only the pods of the release have. */}}

{{- define "nimble-coder.ranksVolume" -}}
- name: ranks
  secret:
    secretName: {{ include "nimble-coder.fullname" . }}-ranks
    defaultMode: 0440
{{- end }}

{{- define "nimble-coder.ranksMount" -}}
- name: ranks
  mountPath: /etc/nimble-coder/ranks
  readOnly: true
{{- end }}

{{/* What mpirun is told: the names of the pods are whole, and each is reached from here. */}}
{{- define "nimble-coder.mpi" -}}
- name: OMPI_MCA_plm_rsh_agent
  value: ssh -F /etc/nimble-coder/ranks/ssh_config
- name: OMPI_MCA_plm_rsh_no_tree_spawn
  value: "1"
- name: OMPI_MCA_orte_keep_fqdn_hostnames
  value: "true"
{{- end }}

{{/* Of the leader, since mpirun ends where it cannot reach a pod. */}}
{{- define "nimble-coder.waitForWorkers" -}}
- name: workers
  image: {{ include "nimble-coder.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- with .Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  command: [sh, -euc]
  args:
    - |
      echo "* $(ssh-keygen -y -f /etc/nimble-coder/ranks/key)" >/tmp/known_hosts
      worker=1
      while [ "$worker" -lt "$LWS_GROUP_SIZE" ]; do
          host="${LWS_LEADER_ADDRESS%%.*}-$worker.${LWS_LEADER_ADDRESS#*.}"
          until ssh -F /etc/nimble-coder/ranks/ssh_config "$host" true; do sleep 2; done
          worker=$((worker + 1))
      done
  resources:
    requests:
      cpu: 10m
      memory: 16Mi
    limits:
      memory: 64Mi
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    {{- include "nimble-coder.ranksMount" . | nindent 4 }}
{{- end }}

{{/* Waits for mpirun: what it starts here has this pod's environment, and ends with the leader. */}}
{{- define "nimble-coder.workerTemplate" -}}
metadata:
  labels:
    {{- include "nimble-coder.release" . | nindent 4 }}
    app.kubernetes.io/component: worker
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "nimble-coder.podSettings" . | trim | nindent 2 }}
  containers:
    - name: ranks
      image: {{ include "nimble-coder.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      command: [sh, -euc]
      args:
        - |
          ssh-keygen -y -f /etc/nimble-coder/ranks/key >/tmp/authorized_keys
          own=$(env | sed -nE 's/^(PATH|LD_LIBRARY_PATH|OPAL_PREFIX|HOME)=.*/"&"/p' | tr '\n' ' ')
          { cat /etc/nimble-coder/ranks/sshd_config && echo "SetEnv $own"; } >/tmp/sshd_config
          exec /usr/sbin/sshd -D -e -f /tmp/sshd_config
      {{- with .Values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: ssh
          containerPort: 2222
          protocol: TCP
      readinessProbe:
        tcpSocket:
          port: ssh
        periodSeconds: 5
      lifecycle:
        preStop:
          # Until the leader has finished what it streams, and has ended its ranks.
          exec:
            command: [sh, -c, "while grep -qsx orted /proc/[0-9]*/comm; do sleep 1; done"]
      {{- with include "nimble-coder.resources" (dict "resources" .Values.resources "gpu" .Values.gpu "gpus" .Values.gpu.count) | trim }}
      resources:
        {{- . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: cache
          mountPath: /opt/nim/.cache
          readOnly: true
        - name: shared-memory
          mountPath: /dev/shm
        - name: tmp
          mountPath: /tmp
        {{- include "nimble-coder.ranksMount" . | nindent 8 }}
  volumes:
    {{- include "nimble-coder.workVolumes" . | trim | nindent 4 }}
    {{- include "nimble-coder.ranksVolume" . | nindent 4 }}
  {{- with include "nimble-coder.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}
