{{/* Names are fixed: the kinds are the cluster's, so a cluster has one release of this chart, or one for each namespace that is served alone. */}}
{{- define "agentsandbox.labels" -}}
app.kubernetes.io/name: agentsandbox
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: agentsandbox
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "agentsandbox.selector" -}}
app.kubernetes.io/name: agentsandbox
app.kubernetes.io/component: operator
{{- end }}

{{/* The reference of one image: (list context "proxy"). */}}
{{- define "agentsandbox.image" -}}
{{- $context := index . 0 -}}
{{- $name := index . 1 -}}
{{- $images := $context.Values.images -}}
{{- get $images $name | default (printf "%s/%s:%s" $images.registry $name ($images.tag | default $context.Chart.AppVersion)) -}}
{{- end }}

{{/* What a schema cannot say. */}}
{{- define "agentsandbox.sane" -}}
{{- $default := .Values.classes.default -}}
{{- if $default -}}
{{- $named := get .Values.classes $default -}}
{{- if not (kindIs "map" $named) }}{{ fail (printf "classes.default is %q, which is no class of this chart: write gvisor, container, kata-qemu, kata-clh, kata-fc, or leave it empty" $default) }}{{ end -}}
{{- if not $named.install }}{{ fail (printf "classes.default is %q, which is not installed: set classes.%s.install to true, or choose another default" $default $default) }}{{ end -}}
{{- end -}}
{{- if .Values.watchNamespace -}}
{{- if eq (toString .Values.watchNamespace) .Release.Namespace }}{{ fail (printf "watchNamespace is %q, which is the namespace of this release: whoever may write there what sandboxes need would write the classes too, so install the release in another namespace" .Release.Namespace) }}{{ end -}}
{{- range $kind := list "podCIDRs" "serviceCIDRs" "nodeCIDRs" -}}
{{- if not (get $.Values.clusterRanges $kind) }}{{ fail (printf "with watchNamespace the operator may not ask the cluster for its addresses: write clusterRanges.%s" $kind) }}{{ end -}}
{{- end -}}
{{- if .Values.runtimeClasses.create }}{{ fail "with watchNamespace the chart makes nothing that is the cluster's: leave runtimeClasses.create empty, and ask the cluster's administrator for the RuntimeClasses" }}{{ end -}}
{{- end -}}
{{- end }}
