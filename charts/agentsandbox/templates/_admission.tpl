{{- /*
What the API server refuses by itself: ValidatingAdmissionPolicies in CEL, without a webhook that could be down. Their text stands here
once: admission.yaml installs it, and the operator is given the same text to compare with what is in force.

Fields that the API server would fill in are written out (scope, matchPolicy, selectors), because whatever differs is reported.
The operator is known by its user name, an administrator of the cluster by the right to bypass-admission, which only wildcards contain and which no
role of this chart grants. Each rule asks for that right last, so that the authorizer is asked about requests that would be refused and no others.
*/ -}}

{{- define "agentsandbox.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:agentsandbox-operator
{{- end }}

{{/* Whether an administrator of the cluster asks. */}}
{{- define "agentsandbox.isAdministrator" -}}
authorizer.group("agentsandbox.dev").resource("agentsandboxes").check("bypass-admission").allowed()
{{- end }}

{{/* Whether an object bears, or bore, a name that is reserved to the operator, or is a Service that leads to what does. */}}
{{- define "agentsandbox.isReserved" -}}
[object, oldObject].exists(o, o != null && (
  (has(o.metadata.labels) && o.metadata.labels.exists(k, k.startsWith("agentsandbox.dev/"))) ||
  (has(o.metadata.annotations) && o.metadata.annotations.exists(k, k.startsWith("agentsandbox.dev/"))) ||
  (has(o.metadata.finalizers) && o.metadata.finalizers.exists(f, f.startsWith("agentsandbox.dev/"))) ||
  (request.resource.resource == "services" && o.?spec.?selector.orValue({}).exists(k, k.startsWith("agentsandbox.dev/") ||
  (k == "app.kubernetes.io/managed-by" && o.spec.selector[k] == "agentsandbox")))))
{{- end }}

{{/* One binding: (list context name mode selector). */}}
{{- define "agentsandbox.admissionBinding" -}}
{{- $context := index . 0 -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ index . 1 }}
  labels: {{- include "agentsandbox.labels" $context | nindent 4 }}
spec:
  policyName: {{ index . 1 }}
  {{- if eq (index . 2) "Deny" }}
  validationActions: [Deny]
  {{- else }}
  validationActions: [Warn, Audit]
  {{- end }}
  {{- with index . 3 }}
  matchResources:
    matchPolicy: Equivalent
    namespaceSelector: {{- toYaml . | nindent 6 }}
    objectSelector: {}
  {{- end }}
{{- end }}

{{- define "agentsandbox.admissionSecretReferences" -}}
---
# Whoever points a key somewhere must be allowed to read it. Not only when the name changes: who may edit the hosts of a credential
# sends its key to a host of his choice.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-credentials
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [agentsandbox.dev]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE]
      resources: [agentcredentials]
      scope: Namespaced
  matchConditions:
  - name: spec-is-new
    expression: oldObject == null || object.spec != oldObject.spec
  validations:
  - expression: authorizer.group("").resource("secrets").namespace(request.namespace).name(object.spec.secretRef.name).check("get").allowed()
    reason: Forbidden
    messageExpression: >-
      "spec.secretRef: " + request.userInfo.username + " may not get Secret " + object.spec.secretRef.name + " in namespace "
      + request.namespace + "; whoever writes a credential must be allowed to read its Secret: ask for a Role with verb get on secrets, resourceNames ["
      + object.spec.secretRef.name + "]"
---
# The Secret is looked for in the namespace of each sandbox, so it must be readable in all of them.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-classes
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [agentsandbox.dev]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE]
      resources: [agentsandboxclasses]
      scope: Cluster
  matchConditions:
  - name: spec-is-new-and-names-a-secret
    expression: >-
      object.?spec.?egress.?upstreamProxy.?login.hasValue() && (oldObject == null || object.spec != oldObject.spec)
  validations:
  - expression: authorizer.group("").resource("secrets").name(object.spec.egress.upstreamProxy.login.secretRef.name).check("get").allowed()
    reason: Forbidden
    messageExpression: >-
      "spec.egress.upstreamProxy.login.secretRef: " + request.userInfo.username + " may not get Secret "
      + object.spec.egress.upstreamProxy.login.secretRef.name + " in every namespace; whoever writes a class with a login must be allowed to read it: "
      + "ask for a ClusterRole with verb get on secrets, resourceNames [" + object.spec.egress.upstreamProxy.login.secretRef.name + "]"
---
# An agent reads what its workspace begins with, and whoever writes its sandbox says what it does with that. So it is not only who names the
# object that must be allowed to read it: who may edit the program or the rules of a sandbox has its agent send what it read to a host of his choice.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-sources
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [agentsandbox.dev]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE]
      resources: [agentsandboxes]
      scope: Namespaced
  matchConditions:
  # What stood there counts as well: the agent that reads it still runs when the rules of the same change are in force.
  - name: spec-is-new-and-names-a-source
    expression: >-
      [object, oldObject].exists(o, o != null
      && (o.?spec.?workspace.?configMap.hasValue() || o.?spec.?workspace.?persistentVolumeClaim.hasValue()))
      && (oldObject == null || object.spec != oldObject.spec)
  variables:
  - name: allMaps
    expression: >-
      [object, oldObject].filter(o, o != null && o.?spec.?workspace.?configMap.hasValue()).map(o, o.spec.workspace.configMap.name)
  - name: allClaims
    expression: >-
      [object, oldObject].filter(o, o != null && o.?spec.?workspace.?persistentVolumeClaim.hasValue()).map(o, o.spec.workspace.persistentVolumeClaim.claimName)
  # Mostly one name, twice: each question to the authorizer takes a third of what an expression may cost.
  - name: maps
    expression: "variables.allMaps.size() == 2 && variables.allMaps[0] == variables.allMaps[1] ? [variables.allMaps[0]] : variables.allMaps"
  - name: claims
    expression: "variables.allClaims.size() == 2 && variables.allClaims[0] == variables.allClaims[1] ? [variables.allClaims[0]] : variables.allClaims"
  # By itself, since three questions are more than one expression may cost.
  - name: mayCreatePods
    expression: authorizer.group("").resource("pods").namespace(request.namespace).check("create").allowed()
  validations:
  - expression: >-
      variables.maps.all(name, authorizer.group("").resource("configmaps").namespace(request.namespace).name(name).check("get").allowed())
    reason: Forbidden
    messageExpression: >-
      "spec.workspace.configMap: " + request.userInfo.username + " may not get ConfigMap " + variables.maps.join(" or ") + " in namespace "
      + request.namespace + "; whoever writes a sandbox must be allowed to read what its agent reads: ask for a Role with verb get on configmaps, resourceNames ["
      + variables.maps.join(", ") + "]"
  # To get a claim is no right to what is in its volume, which the role view has of each. Who may create pods mounts any of them.
  - expression: >-
      variables.claims.all(name, authorizer.group("").resource("persistentvolumeclaims").namespace(request.namespace).name(name).check("mount").allowed())
      || variables.mayCreatePods
    reason: Forbidden
    messageExpression: >-
      "spec.workspace.persistentVolumeClaim: " + request.userInfo.username + " may not mount PersistentVolumeClaim "
      + variables.claims.join(" or ") + " in namespace " + request.namespace
      + "; whoever writes a sandbox must be allowed to read what its agent reads: ask for a Role with verb mount on persistentvolumeclaims, resourceNames ["
      + variables.claims.join(", ") + "], or for one to create pods"
{{- end }}

{{- define "agentsandbox.admissionChildren" -}}
---
# What belongs to a sandbox is the operator's. Others may annotate it, and the cluster's own controllers may tidy up.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-children
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [""]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE, DELETE]
      resources: [configmaps, secrets, services, serviceaccounts, endpoints]
      scope: Namespaced
    - apiGroups: [networking.k8s.io]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE, DELETE]
      resources: [networkpolicies]
      scope: Namespaced
    - apiGroups: [discovery.k8s.io]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE, DELETE]
      resources: [endpointslices]
      scope: Namespaced
    # A pod may be deleted by whoever has the right: that takes power from it, and the operator makes another.
    - apiGroups: [""]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE]
      resources: [pods, pods/resize]
      scope: Namespaced
    # A claim may be deleted by whoever has the right, as one that outlasts its sandbox has to be.
    - apiGroups: [""]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE]
      resources: [persistentvolumeclaims]
      scope: Namespaced
    # An update of a status can change labels and annotations too.
    - apiGroups: [""]
      apiVersions: ["*"]
      operations: [UPDATE]
      resources: [pods/status, services/status, persistentvolumeclaims/status]
      scope: Namespaced
  matchConditions:
  - name: somebody-else-touches-what-is-reserved
    expression: >-
      {{- include "agentsandbox.isReserved" . | nindent 6 }}
      && request.userInfo.username != {{ include "agentsandbox.operatorUser" . | quote }}
  variables:
  - name: labels
    expression: "object == null ? {} : object.metadata.?labels.orValue({})"
  - name: annotations
    expression: "object == null ? {} : object.metadata.?annotations.orValue({})"
  - name: finalizers
    expression: "object == null ? [] : object.metadata.?finalizers.orValue([])"
  - name: oldLabels
    expression: "oldObject == null ? {} : oldObject.metadata.?labels.orValue({})"
  - name: oldAnnotations
    expression: "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})"
  - name: oldFinalizers
    expression: "oldObject == null ? [] : oldObject.metadata.?finalizers.orValue([])"
  # Everything that these kinds say, but for a status, which is its writer's.
  - name: contentKept
    expression: >-
      object.?spec.orValue(null) == oldObject.?spec.orValue(null)
      && object.?data.orValue(null) == oldObject.?data.orValue(null)
      && object.?binaryData.orValue(null) == oldObject.?binaryData.orValue(null)
      && object.?immutable.orValue(null) == oldObject.?immutable.orValue(null)
      && object.?automountServiceAccountToken.orValue(null) == oldObject.?automountServiceAccountToken.orValue(null)
      && object.?endpoints.orValue(null) == oldObject.?endpoints.orValue(null)
      && object.?ports.orValue(null) == oldObject.?ports.orValue(null)
      && object.?subsets.orValue(null) == oldObject.?subsets.orValue(null)
      && object.?secrets.orValue(null) == oldObject.?secrets.orValue(null)
      && object.?imagePullSecrets.orValue(null) == oldObject.?imagePullSecrets.orValue(null)
  # Labels as a whole: the operator finds and selects by them, and app.kubernetes.io/managed-by is one.
  - name: namesKept
    expression: >-
      variables.labels == variables.oldLabels
      && variables.annotations.all(k, !k.startsWith("agentsandbox.dev/") || (k in variables.oldAnnotations && variables.oldAnnotations[k] == variables.annotations[k]))
      && variables.oldAnnotations.all(k, !k.startsWith("agentsandbox.dev/") || k in variables.annotations)
      && variables.finalizers.all(f, !f.startsWith("agentsandbox.dev/") || f in variables.oldFinalizers)
      && variables.oldFinalizers.all(f, !f.startsWith("agentsandbox.dev/") || f in variables.finalizers)
  - name: ownersKept
    expression: >-
      object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([])
      && variables.finalizers == variables.oldFinalizers
  # A claim is bound, protected and resized by controllers and drivers of any name: what counts is whose it is, and that nothing collects
  # it. Whoever may write claims can name a volume for one that has none, and the step takes no volume that is not empty.
  - name: isSameClaim
    expression: >-
      request.resource.resource == "persistentvolumeclaims"
      && object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([])
  # The garbage collector and the namespace controller delete, and take owners and their own finalizers away.
  - name: isTidying
    expression: >-
      request.userInfo.username in ["system:serviceaccount:kube-system:generic-garbage-collector",
      "system:serviceaccount:kube-system:namespace-controller", "system:kube-controller-manager"]
  # The endpoints of a Service bear its labels, and are written by these.
  - name: isEndpointController
    expression: >-
      request.resource.resource in ["endpoints", "endpointslices"]
      && request.userInfo.username in ["system:serviceaccount:kube-system:endpointslice-controller",
      "system:serviceaccount:kube-system:endpointslicemirroring-controller", "system:serviceaccount:kube-system:endpoint-controller",
      "system:kube-controller-manager"]
  validations:
  - expression: >-
      request.operation != "CREATE" || variables.isEndpointController
      || {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    message: "labels, annotations and finalizers that begin with agentsandbox.dev/ are the operator's alone, and so are Services that select by them: write an AgentSandbox, and leave them off objects of your own"
  - expression: >-
      request.operation != "UPDATE" || variables.isEndpointController || (variables.namesKept && variables.isSameClaim)
      || (variables.namesKept && variables.contentKept && (variables.ownersKept || variables.isTidying))
      || {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    messageExpression: >-
      request.resource.resource + " " + request.name + " belongs to a sandbox, or would claim to: only the operator changes its content, labels, owners "
      + "and whatever begins with agentsandbox.dev/; change the AgentSandbox instead"
  - expression: >-
      request.operation != "DELETE" || variables.isEndpointController || variables.isTidying
      || {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    messageExpression: >-
      request.resource.resource + " " + request.name + " belongs to a sandbox and is deleted with it: delete the AgentSandbox instead"
---
# The finalizer keeps walls standing until the agent is gone.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-finalizers
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [agentsandbox.dev]
      apiVersions: ["*"]
      operations: [UPDATE]
      resources: [agentsandboxes, agentsandboxes/status]
      scope: Namespaced
  matchConditions:
  - name: somebody-else-takes-the-finalizer
    expression: >-
      oldObject.metadata.?finalizers.orValue([]).exists(f, f.startsWith("agentsandbox.dev/") && !(f in object.metadata.?finalizers.orValue([])))
      && request.userInfo.username != {{ include "agentsandbox.operatorUser" . | quote }}
  validations:
  - expression: {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    message: "metadata.finalizers: agentsandbox.dev/teardown is the operator's to remove, once the agent is gone and before its walls are: delete the AgentSandbox and wait; kubectl replace takes off what its file does not list, so change a sandbox by kubectl apply, or keep metadata.finalizers in the file"
---
# The operator acts upon what it wrote: a program that is said to have ended is not started again, and a life counts from the start that was told.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-statuses
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [agentsandbox.dev]
      apiVersions: ["*"]
      operations: [UPDATE]
      resources: [agentsandboxes/status]
      scope: Namespaced
  matchConditions:
  - name: somebody-else-writes-a-status
    expression: >-
      object.?status.orValue(null) != oldObject.?status.orValue(null)
      && request.userInfo.username != {{ include "agentsandbox.operatorUser" . | quote }}
  validations:
  - expression: {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    message: "status: it is what the operator has seen, and decides whether the sandbox runs and until when, so only the operator writes it: change the AgentSandbox's spec instead"
{{- end }}

{{- define "agentsandbox.admissionPods" -}}
---
# Whoever writes a sandbox's pod, the operator too: a webhook may have changed what it wrote.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-pods
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [""]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE]
      resources: [pods, pods/ephemeralcontainers, pods/status]
      scope: Namespaced
  matchConditions:
  - name: pod-of-a-sandbox
    expression: >-
      [object, oldObject].exists(o, o != null && has(o.metadata.labels) && o.metadata.labels.exists(k, k.startsWith("agentsandbox.dev/")))
  variables:
  - name: annotations
    expression: object.metadata.?annotations.orValue({})
  - name: oldAnnotations
    expression: "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})"
  - name: runtimeClass
    expression: variables.annotations[?"agentsandbox.dev/runtime-class"]
  # What network plugins write down after they have set up a pod.
  - name: reports
    expression: >-
      ["k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status", "cni.projectcalico.org/containerID",
      "cni.projectcalico.org/podIP", "cni.projectcalico.org/podIPs"]
  # Annotations by which runtimes, their plugins and networks are told to do otherwise than the pod's spec says.
  - name: loosening
    expression: >-
      variables.annotations.filter(k,
      ["dev.gvisor.", "io.katacontainers.", "io.kubernetes.cri", "io.containerd.", "cdi.k8s.io/", "container.apparmor",
      "seccomp.security.alpha", "k8s.v1.cni.cncf.io/", "v1.multus-cni.io/", "cni."].exists(p, k.startsWith(p))
      && !(k in variables.oldAnnotations && variables.oldAnnotations[k] == variables.annotations[k])
      && !(oldObject != null && k in variables.reports))
  validations:
  - expression: >-
      request.?subResource.orValue("") != "ephemeralcontainers"
      || {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    message: "no container is added to a sandbox's pod: it would stand inside the walls, beside the agent or the keys"
  - expression: >-
      request.operation != "CREATE" || (variables.runtimeClass.hasValue()
      && object.spec.?runtimeClassName.orValue("") == variables.runtimeClass.value())
      || {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    messageExpression: >-
      "spec.runtimeClassName is " + (has(object.spec.runtimeClassName) ? object.spec.runtimeClassName : "missing") + " and the sandbox's class asks for "
      + variables.runtimeClass.orValue("one that is not written down") + ": something between the operator and the API server has changed the pod"
  - expression: >-
      (!object.spec.?hostNetwork.orValue(false) && !object.spec.?hostPID.orValue(false) && !object.spec.?hostIPC.orValue(false))
      || {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    message: "spec.hostNetwork, hostPID and hostIPC are never true in a sandbox's pod: something between the operator and the API server has changed it"
  - expression: >-
      variables.loosening.size() == 0
      || {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    messageExpression: >-
      "metadata.annotations: " + variables.loosening.join(", ") + " could loosen the runtime or the network of a sandbox's pod, so nobody sets it"
{{- end }}

{{- define "agentsandbox.admissionProxyAccess" -}}
---
# Who enters the proxy's pod reads its keys, and a forwarded port goes round its walls. The API server tells a policy the name of the
# pod that is entered and nothing else of it: a pod of somebody else whose name ends in -proxy is closed too. Pods of Deployments,
# DaemonSets and StatefulSets have other names.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-proxy-access
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [""]
      apiVersions: ["*"]
      operations: [CONNECT]
      resources: [pods/exec, pods/attach, pods/portforward, pods/proxy, services/proxy]
      scope: Namespaced
  matchConditions:
  - name: somebody-enters-a-proxy
    # The name that is asked for may have a scheme before it and a port behind it: https:x-proxy:9090.
    expression: request.name.matches("(^|:)[^:]*-proxy(:|$)")
  validations:
  - expression: {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    messageExpression: >-
      "pod " + request.name + " has the name of a sandbox's proxy, which holds its keys: only an administrator of the cluster enters it; its log has what it decided"
{{- end }}

{{- define "agentsandbox.admissionNetworkPolicies" -}}
---
# Policies add up, so one that selects a sandbox's pods and allows anything widens its walls. The pods are not known here, their labels are:
# app.kubernetes.io/managed-by: agentsandbox, agentsandbox.dev/sandbox, sandbox-uid and component, and those that the API server copies from nodes.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: agentsandbox-network-policies
  labels: {{- include "agentsandbox.labels" . | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - apiGroups: [networking.k8s.io]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE]
      resources: [networkpolicies]
      scope: Namespaced
  matchConditions:
  - name: somebody-else-allows-something
    expression: >-
      (object.spec.?ingress.orValue([]).size() > 0 || object.spec.?egress.orValue([]).size() > 0)
      && (oldObject == null || object.spec != oldObject.spec)
      && request.userInfo.username != {{ include "agentsandbox.operatorUser" . | quote }}
  variables:
  - name: selector
    expression: object.spec.?podSelector.orValue({})
  - name: asked
    expression: variables.selector.?matchLabels.orValue({})
  - name: expressions
    expression: variables.selector.?matchExpressions.orValue([])
  # Labels that each pod of a sandbox has, and those that it may have.
  - name: present
    expression: '["app.kubernetes.io/managed-by", "agentsandbox.dev/sandbox", "agentsandbox.dev/sandbox-uid", "agentsandbox.dev/component"]'
  # Whether it leaves out every pod of a sandbox for certain.
  - name: leavesOut
    expression: >-
      variables.asked.exists(k, !(k in variables.present) && !k.startsWith("topology."))
      || variables.asked.exists(k, k == "app.kubernetes.io/managed-by" && variables.asked[k] != "agentsandbox")
      || variables.expressions.exists(e, e.operator == "DoesNotExist" && e.key in variables.present)
      || variables.expressions.exists(e, e.operator in ["In", "Exists"] && !(e.key in variables.present) && !e.key.startsWith("topology."))
      || variables.expressions.exists(e, e.operator == "In" && e.key == "app.kubernetes.io/managed-by" && !("agentsandbox" in e.values))
      || variables.expressions.exists(e, e.operator == "NotIn" && e.key == "app.kubernetes.io/managed-by" && "agentsandbox" in e.values)
  validations:
  - expression: >-
      variables.leavesOut
      || {{ include "agentsandbox.isAdministrator" . }}
    reason: Forbidden
    message: >-
      spec.podSelector could select pods of sandboxes, whose walls this policy would widen: leave them out with
      matchExpressions: [{key: agentsandbox.dev/component, operator: DoesNotExist}]
{{- end }}

{{/* All that is switched on, policies and bindings. */}}
{{- define "agentsandbox.admission" -}}
{{- $groups := list
  (list "secretReferences" "agentsandbox.admissionSecretReferences" (list "agentsandbox-credentials" "agentsandbox-classes" "agentsandbox-sources"))
  (list "children" "agentsandbox.admissionChildren" (list "agentsandbox-children" "agentsandbox-finalizers" "agentsandbox-statuses"))
  (list "pods" "agentsandbox.admissionPods" (list "agentsandbox-pods"))
  (list "proxyAccess" "agentsandbox.admissionProxyAccess" (list "agentsandbox-proxy-access"))
  (list "networkPolicies" "agentsandbox.admissionNetworkPolicies" (list "agentsandbox-network-policies"))
-}}
{{- if .Values.watchNamespace }}{{ $groups = list }}{{ end }}
{{- range $group := $groups }}
{{- $value := index $group 0 }}
{{- $mode := get $.Values.admission $value }}
{{- if ne $mode "None" }}
{{ include (index $group 1) $ }}
{{- range $name := index $group 2 }}
{{ include "agentsandbox.admissionBinding" (list $ $name $mode (eq $value "networkPolicies" | ternary $.Values.admission.networkPoliciesIn dict)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
