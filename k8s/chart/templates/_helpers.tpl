{{/* What several templates need. Kept to functions that both Helm and `gatehouse k8s generate` have: see k8s/functions.go. */}}

{{- define "gatehouse.name" -}}
{{ .Values.name | default .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "gatehouse.selector" -}}
app.kubernetes.io/name: gatehouse
app.kubernetes.io/instance: {{ include "gatehouse.name" . }}
{{- end }}

{{- define "gatehouse.labels" -}}
{{ include "gatehouse.selector" . }}
app.kubernetes.io/part-of: gatehouse
{{- end }}

{{/* The pods that the application runs in. */}}
{{- define "gatehouse.appSelector" -}}
{{- if .Values.app.labels -}}
{{ toYaml .Values.app.labels }}
{{- else -}}
app: {{ .Values.app.name | quote }}
{{- end }}
{{- end }}

{{- define "gatehouse.image" -}}
{{- $i := .Values.image -}}
{{ $i.repository }}{{ if $i.digest }}@{{ $i.digest }}{{ else }}:{{ $i.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The namespaces of the pods that Gatehouse is in: a pod mounts no ConfigMap and no Secret of another one. */}}
{{- define "gatehouse.podNamespaces" -}}
{{- if eq .Values.mode "service" -}}
{{ toJson (dict "list" (list .Release.Namespace)) }}
{{- else if eq .Values.for "envoy-gateway" -}}
{{ toJson (dict "list" (list .Values.gateway.systemNamespace)) }}
{{- else -}}
{{ include "gatehouse.envoyNamespaces" . }}
{{- end -}}
{{- end }}

{{/* Those of the application's pods. */}}
{{- define "gatehouse.envoyNamespaces" -}}
{{- if and .Values.injector.enabled .Values.injector.namespaces -}}
{{ toJson (dict "list" .Values.injector.namespaces) }}
{{- else -}}
{{ toJson (dict "list" (list (.Values.app.namespace | default .Release.Namespace))) }}
{{- end -}}
{{- end }}

{{/* TLS between Envoy and Gatehouse by Gatehouse itself: where they are on two machines and no mesh does it. */}}
{{- define "gatehouse.tls" -}}
{{- if and (eq .Values.mode "service") (ne .Values.for "istio") .Values.tls.secretName -}}
yes
{{- end }}
{{- end }}

{{/* Whether config follows a control plane. Then every pod is an edge of its own: it is let in by a token of its own, once, and keeps its certificate. */}}
{{- define "gatehouse.control" -}}
{{- if get .Values.config "control" -}}
{{- if ne .Values.mode "service" -}}
{{- fail "config.control: every pod is let in by a token of its own, and a sidecar's pods have no names that stay: set mode to service" -}}
{{- end -}}
{{- if ne .Values.state.kind "pvc" -}}
{{- fail "config.control: a pod is let in once and keeps its certificate in state_dir, which an emptyDir loses with the pod: set state.kind to pvc" -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- fail "config.control: every pod is let in by a token of its own, which an autoscaler cannot make: set autoscaling.enabled to false, and replicas" -}}
{{- end -}}
yes
{{- end -}}
{{- end }}

{{/* gatehouse.yaml: what config says, with the keys that the pod decides in their place. */}}
{{- define "gatehouse.config" -}}
{{- $v := .Values -}}
{{- $listen := dict "admin" ":9192" "control" "unix:/var/lib/gatehouse/control.sock" "drain_timeout" $v.drain.timeout -}}
{{- if eq $v.mode "sidecar" -}}
{{- /* The socket is in a volume that only Envoy and Gatehouse mount: that is who may use it, whatever their user ids are. */ -}}
{{- $_ := set $listen "grpc" (list "unix:/run/gatehouse/gatehouse.sock") -}}
{{- $_ := set $listen "socket" (dict "mode" "0666") -}}
{{- /* A native sidecar ends after all that could ask; the injector says for each pod whether it is one. */ -}}
{{- $_ := set $listen "drain_delay" "0s" -}}
{{- if $v.injector.enabled -}}
{{- $_ := set $listen "drain_delay" "${GATEHOUSE_DRAIN_DELAY}" -}}
{{- end -}}
{{- else -}}
{{- $_ := set $listen "grpc" (list ":9191") -}}
{{- $_ := set $listen "drain_delay" $v.drain.delay -}}
{{- if include "gatehouse.tls" . -}}
{{- $tls := dict "cert" "/etc/gatehouse/tls/tls.crt" "key" "/etc/gatehouse/tls/tls.key" -}}
{{- if $v.tls.clientCA -}}
{{- $_ := set $tls "client_ca" "/etc/gatehouse/tls/ca.crt" -}}
{{- end -}}
{{- $_ := set $listen "tls" $tls -}}
{{- end -}}
{{- end -}}
{{- $config := deepCopy $v.config -}}
{{- $policy := deepCopy (get $config "policy" | default dict) -}}
{{- $bundles := list -}}
{{- if $v.policy.files -}}
{{- $bundles = append $bundles (dict "name" $v.policy.name "path" "policy") -}}
{{- end -}}
{{- if $v.policy.image -}}
{{- $bundles = append $bundles (dict "name" $v.policy.name "image" $v.policy.image) -}}
{{- end -}}
{{- if $v.policy.url -}}
{{- $bundles = append $bundles (dict "name" $v.policy.name "url" $v.policy.url) -}}
{{- end -}}
{{- if $v.policy.control -}}
{{- $bundles = append $bundles (dict "name" $v.policy.name "control" true) -}}
{{- end -}}
{{- if and (get $policy "bundles") (or $v.policy.image $v.policy.url $v.policy.control) -}}
{{- fail "policy.image, policy.url and policy.control stand for config.policy.bundles: set one of them" -}}
{{- end -}}
{{- if gt (len $bundles) 1 -}}
{{- fail "policy.files, policy.image, policy.url and policy.control: set one of them, or config.policy.bundles for several" -}}
{{- end -}}
{{- if and $v.policy.control (not (get $v.config "control")) -}}
{{- fail "policy.control: config.control says where the control plane is: {url: https://host:port, pin: ...}" -}}
{{- end -}}
{{- if and $bundles (not (get $policy "bundles")) -}}
{{- $_ := set $policy "bundles" $bundles -}}
{{- end -}}
{{- if not (get $policy "bundles") -}}
{{- fail "no policy: set policy.files, policy.image, policy.url, policy.control or config.policy.bundles" -}}
{{- end -}}
{{- $own := dict "state_dir" "/var/lib/gatehouse" "listen" $listen "policy" $policy -}}
{{- if include "gatehouse.control" . -}}
{{- $control := deepCopy (get $config "control") -}}
{{- $_ := set $control "enroll_token_file" "/etc/gatehouse-enroll/${GATEHOUSE_POD}" -}}
{{- $_ := set $own "control" $control -}}
{{- end -}}
{{- if not (get $config "decision_log") -}}
{{- $_ := set $own "decision_log" (dict "file" "-") -}}
{{- end -}}
{{- toJson (mergeOverwrite $config $own) -}}
{{- end }}

{{/* Annotations that roll the pods. gatehouse.yaml itself is read at the start, and so are the files that config names below
     templates and smoke tables; policy, routes, directory, keys and certificates are watched, and roll nothing. */}}
{{- define "gatehouse.annotations" -}}
gatehouse.io/config: {{ include "gatehouse.config" . | sha256sum | quote }}
{{- if .Values.startFiles }}
gatehouse.io/files: {{ toJson .Values.startFiles | sha256sum | quote }}
{{- end }}
{{- end }}

{{- define "gatehouse.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
runAsGroup: 65532
runAsNonRoot: true
runAsUser: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The container, without what is different as a sidecar. */}}
{{- define "gatehouse.container" -}}
name: gatehouse
image: {{ include "gatehouse.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, /etc/gatehouse/gatehouse.yaml, --wait-for-policy]
{{- if or .Values.env (include "gatehouse.control" .) }}
env:
  {{- if include "gatehouse.control" . }}
  - {name: GATEHOUSE_POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
ports:
  {{- if eq .Values.mode "service" }}
  - {name: grpc, containerPort: 9191, protocol: TCP}
  {{- end }}
  - {name: gatehouse-admin, containerPort: 9192, protocol: TCP}
# Ready is who has a policy and its keys. Alive is who answers at all: to restart a process because a server of bundles is down
# would only take the last good policy away.
startupProbe:
  httpGet: {path: {{ if eq .Values.mode "sidecar" }}/readyz{{ else }}/healthz{{ end }}, port: gatehouse-admin}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 120
readinessProbe:
  httpGet: {path: /readyz, port: gatehouse-admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: gatehouse-admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources:
  {{- toYaml (get .Values.resources .Values.mode) | nindent 2 }}
securityContext:
  {{- include "gatehouse.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: gatehouse-config, mountPath: /etc/gatehouse, readOnly: true}
  - {name: gatehouse-state, mountPath: /var/lib/gatehouse}
  {{- if include "gatehouse.control" . }}
  - {name: gatehouse-enroll, mountPath: /etc/gatehouse-enroll, readOnly: true}
  {{- end }}
  {{- if eq .Values.mode "sidecar" }}
  - {name: gatehouse-socket, mountPath: /run/gatehouse}
  {{- include "gatehouse.noTokenMount" . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* A native sidecar: it is there before the containers after it, and until they have ended. */}}
{{- define "gatehouse.sidecar" -}}
{{ include "gatehouse.container" . }}
restartPolicy: Always
{{- end }}

{{- define "gatehouse.configVolume" -}}
name: gatehouse-config
projected:
  defaultMode: 292 # 0444
  sources:
    - configMap:
        name: {{ include "gatehouse.name" . }}-config
        items:
          - {key: gatehouse.yaml, path: gatehouse.yaml}
          {{- range $path, $text := merge (dict) .Values.files .Values.startFiles }}
          - {key: {{ $path | replace "/" "__" | quote }}, path: {{ $path | quote }}}
          {{- end }}
    {{- if .Values.policy.files }}
    - configMap:
        name: {{ include "gatehouse.name" . }}-policy
        items:
          {{- range $path, $text := .Values.policy.files }}
          - {key: {{ $path | replace "/" "__" | quote }}, path: {{ printf "policy/%s" $path | quote }}}
          {{- end }}
    {{- end }}
    {{- if include "gatehouse.tls" . }}
    - secret:
        name: {{ .Values.tls.secretName | quote }}
        items:
          - {key: tls.crt, path: tls/tls.crt}
          - {key: tls.key, path: tls/tls.key}
          {{- if .Values.tls.clientCA }}
          - {key: ca.crt, path: tls/ca.crt}
          {{- end }}
    {{- end }}
    {{- with .Values.secrets }}
    - secret:
        name: {{ .name | quote }}
        items:
          {{- range .files }}
          - {key: {{ . | quote }}, path: {{ printf "secrets/%s" . | quote }}}
          {{- end }}
    {{- end }}
{{- end }}

{{- define "gatehouse.socketVolume" -}}
name: gatehouse-socket
emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}

{{/* The pod may have a token of the API server's, which Kubernetes mounts into every container that has nothing at this path. */}}
{{- define "gatehouse.noTokenMount" -}}
- {name: gatehouse-no-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
{{- define "gatehouse.noTokenVolume" -}}
name: gatehouse-no-token
emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}

{{/* The tokens by which pods are let in at control, by the pods' names. They are good for one time: the Secret may go afterwards. */}}
{{- define "gatehouse.enrollSecret" -}}
{{ .Values.control.secretName | default (printf "%s-enroll" (include "gatehouse.name" .)) }}
{{- end }}
{{- define "gatehouse.enrollVolume" -}}
name: gatehouse-enroll
secret: {secretName: {{ include "gatehouse.enrollSecret" . | quote }}, optional: true, defaultMode: 288} # 0440
{{- end }}

{{- define "gatehouse.stateVolume" -}}
name: gatehouse-state
emptyDir: {sizeLimit: {{ .Values.state.size }}}
{{- end }}

{{/* The snippet for Istio's MeshConfig: no chart but Istio's own may set it. */}}
{{- define "gatehouse.meshConfig" -}}
meshConfig:
  extensionProviders:
    - name: {{ .Values.istio.provider }}
      envoyExtAuthzGrpc:
        {{- if eq .Values.mode "sidecar" }}
        service: {{ .Release.Namespace }}/{{ include "gatehouse.name" . }}.sidecar.internal
        {{- else }}
        service: {{ .Release.Namespace }}/{{ include "gatehouse.name" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
        {{- end }}
        port: 9191
        timeout: {{ .Values.timeout }}
        failOpen: false
        statusOnError: "503"
        includeRequestBodyInCheck: {maxRequestBytes: {{ int .Values.maxBody }}, allowPartialMessage: true, packAsBytes: true}
{{- end }}
