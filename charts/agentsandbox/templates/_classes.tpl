{{/* The classes: the cluster's, or, for an operator of one namespace, a file of its own. */}}
{{- define "agentsandbox.classes" -}}
{{- $isolation := dict "gvisor" "GVisor" "container" "Container" "kata-qemu" "Kata" "kata-clh" "Kata" "kata-fc" "Kata" }}
{{- range $name := list "gvisor" "container" "kata-qemu" "kata-clh" "kata-fc" }}
{{- $class := get $.Values.classes $name }}
{{- if $class.install }}
---
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandboxClass
metadata:
  name: {{ $name }}
  labels: {{- include "agentsandbox.labels" $ | nindent 4 }}
  {{- if eq $name $.Values.classes.default }}
  annotations:
    agentsandbox.dev/is-default-class: "true"
  {{- end }}
spec:
  isolation: {{ get $isolation $name }}
  {{- with $class.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  sidecarPlacement: Pod
  {{- if or $class.nodeSelector $class.tolerations }}
  scheduling:
    {{- with $class.nodeSelector }}
    nodeSelector: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $class.tolerations }}
    tolerations: {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- with $.Values.sandboxes }}
  resources:
    default: {{- toYaml .defaultLimits | nindent 6 }}
    max: {{- toYaml .maxLimits | nindent 6 }}
    {{- if .pidsMax }}
    pidsMax: {{ int .pidsMax }}
    {{- end }}
  {{- with .allowedRegistries }}
  images:
    allowedRegistries: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if or .allowedHosts .allowedPrivateRanges (eq .tlsPassthrough "Allow") (eq .onRevoke "Kill") .upstreamProxy .egressLimits }}
  egress:
    {{- with .allowedHosts }}
    allowedHosts: {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .allowedPrivateRanges }}
    allowedPrivateRanges: {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if eq .tlsPassthrough "Allow" }}
    tlsPassthrough: Allow
    {{- end }}
    {{- if eq .onRevoke "Kill" }}
    onRevoke: Kill
    {{- end }}
    {{- with .egressLimits }}
    limits: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .upstreamProxy }}
    upstreamProxy: {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- with .persistentWorkspace }}
  persistentWorkspace: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .tracing }}
  tracing: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
