{{- define "outcrop.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- $name = default $name .Values.fullnameOverride | trunc 42 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $name) -}}
{{- fail (printf "%s cannot be the name of a Service, which begins with a letter and has no dot: set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "outcrop.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The labels by which objects find each other. They never change, since selectors cannot. */}}
{{- define "outcrop.selector" -}}
app.kubernetes.io/name: {{ include "outcrop.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* A pod's labels: dict root, component, labels. Not the chart's version: a chart that changes nothing in a pod shall not restart it. */}}
{{- define "outcrop.podLabels" -}}
{{ include "outcrop.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: outcrop
{{- with merge (dict) (default (dict) .labels) (default (dict) .root.Values.commonLabels) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An object's labels: dict root, component, labels. */}}
{{- define "outcrop.labels" -}}
{{ include "outcrop.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: outcrop
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- with merge (dict) (default (dict) .labels) (default (dict) .root.Values.commonLabels) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* name, labels and annotations of an object: dict root, component, name, and as wanted namespaced, labels, annotations. */}}
{{- define "outcrop.metadata" -}}
name: {{ .name }}
{{- if ne .namespaced false }}
namespace: {{ default .root.Release.Namespace .namespace }}
{{- end }}
labels:
  {{- include "outcrop.labels" . | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) (default (dict) .root.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An image's whole name: dict root, image. */}}
{{- define "outcrop.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .root.Chart.AppVersion .image.tag }}{{ end -}}
{{- end -}}

{{- define "outcrop.aggregatorAccount" -}}
{{- default (ternary (printf "%s-aggregator" (include "outcrop.fullname" .)) "default" .Values.aggregator.serviceAccount.create) .Values.aggregator.serviceAccount.name -}}
{{- end -}}

{{- define "outcrop.agentAccount" -}}
{{- default (ternary (printf "%s-agent" (include "outcrop.fullname" .)) "default" .Values.agent.serviceAccount.create) .Values.agent.serviceAccount.name -}}
{{- end -}}

{{/* The name that agents call the aggregator by; the first in its certificate. */}}
{{- define "outcrop.host" -}}
{{ include "outcrop.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* All names in its certificate, as a list in JSON. `localhost` is for those who come through a port-forward. */}}
{{- define "outcrop.tlsNames" -}}
{{- $host := include "outcrop.host" . -}}
{{- $name := include "outcrop.fullname" . -}}
{{- concat (list $host (printf "%s.%s" $host .Values.clusterDomain) (printf "%s.%s" $name .Release.Namespace) $name "localhost") .Values.tls.extraNames | uniq | toJson -}}
{{- end -}}

{{- define "outcrop.caConfigMap" -}}
{{ include "outcrop.fullname" . }}-ca
{{- end -}}

{{- define "outcrop.tlsSecret" -}}
{{- if .Values.tls.secretName -}}
{{- .Values.tls.secretName -}}
{{- else if eq .Values.tls.mode "certManager" -}}
{{- printf "%s-tls" (include "outcrop.fullname" .) -}}
{{- else -}}
{{- fail "tls.mode is \"secret\": tls.secretName has to name a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- end -}}

{{- define "outcrop.claim" -}}
{{- default (printf "%s-data" (include "outcrop.fullname" .)) .Values.aggregator.persistence.existingClaim -}}
{{- end -}}

{{- define "outcrop.policyConfigMap" -}}
{{- $policy := default (dict) .Values.policy -}}
{{- if and $policy.rego $policy.existingConfigMap -}}
{{- fail "policy.rego and policy.existingConfigMap: give one of them" -}}
{{- end -}}
{{- if $policy.existingConfigMap -}}
{{- $policy.existingConfigMap -}}
{{- else if $policy.rego -}}
{{- printf "%s-policy" (include "outcrop.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* Namespaces to watch where the scope is one, as a list in JSON. The release's own is always among them: agents are known by their pods. */}}
{{- define "outcrop.watched" -}}
{{- if eq .Values.scope "namespaced" -}}
{{- concat (list .Release.Namespace) .Values.watchNamespaces | uniq | toJson -}}
{{- else -}}
{{- if .Values.watchNamespaces -}}{{- fail "watchNamespaces is for scope: namespaced" -}}{{- end -}}
[]
{{- end -}}
{{- end -}}

{{- define "outcrop.dnsEgress" -}}
# DNS, wherever it listens: in pods, on the node, or outside.
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - { protocol: UDP, port: {{ . | int }} }
    - { protocol: TCP, port: {{ . | int }} }
    {{- end }}
{{- end -}}
