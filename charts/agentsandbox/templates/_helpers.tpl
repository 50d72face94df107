{{/* Names are fixed: the kinds are the cluster's, so a cluster has one release of this chart. */}}
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

{{/* What only the reader knows of the cluster is asked for with the command that finds it. */}}
{{- define "agentsandbox.facts" -}}
{{- $ranges := .Values.clusterRanges -}}
{{- if not $ranges.podCIDRs }}{{ fail "clusterRanges.podCIDRs is empty: write the CIDRs of your pods, such as 10.244.0.0/16; find them with: kubectl get nodes -o jsonpath='{.items[*].spec.podCIDRs}'" }}{{ end -}}
{{- if not $ranges.serviceCIDRs }}{{ fail "clusterRanges.serviceCIDRs is empty: write the CIDRs of your Services, such as 10.96.0.0/16; find them with: kubectl get servicecidrs" }}{{ end -}}
{{- if not $ranges.nodeCIDRs }}{{ fail "clusterRanges.nodeCIDRs is empty: write the CIDRs of your nodes, such as 10.0.0.0/24; find them with: kubectl get nodes -o wide" }}{{ end -}}
{{- if not $ranges.clusterDNS }}{{ fail "clusterRanges.clusterDNS is empty: write the address of the DNS Service, such as 10.96.0.10; find it with: kubectl get service -n kube-system kube-dns" }}{{ end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.apiServer.cidrs) }}{{ fail "apiServer.cidrs is empty: write the addresses of the API server, such as 10.0.0.10/32 and 10.96.0.1/32; find them with: kubectl get endpointslices,service -n default" }}{{ end -}}
{{- $default := .Values.classes.default -}}
{{- if $default -}}
{{- $named := get .Values.classes $default -}}
{{- if not (kindIs "map" $named) }}{{ fail (printf "classes.default is %q, which is no class of this chart: write gvisor, container, kata-qemu, kata-clh, kata-fc, or leave it empty" $default) }}{{ end -}}
{{- if not $named.install }}{{ fail (printf "classes.default is %q, which is not installed: set classes.%s.install to true, or choose another default" $default $default) }}{{ end -}}
{{- end -}}
{{- end }}
