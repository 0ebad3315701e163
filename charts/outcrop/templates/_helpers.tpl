{{- define "outcrop.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- $name = default $name .Values.fullnameOverride | trunc 42 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $name) -}}
{{- fail (printf "invalid name %q for a Service: it must start with a letter and must not contain a dot; set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "outcrop.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels used in selectors. They must never change, because selectors are immutable. */}}
{{- define "outcrop.selector" -}}
app.kubernetes.io/name: {{ include "outcrop.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* A pod's labels: dict root, component, labels. Without the chart's version, so that a new chart version alone does not restart pods. */}}
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

{{/* Name, labels and annotations of an object: dict root, component, name; optional: namespaced, labels, annotations. */}}
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

{{/* The full reference of an image: dict root, image. */}}
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

{{/* The host name that agents use for the aggregator; the first name in its certificate. */}}
{{- define "outcrop.host" -}}
{{ include "outcrop.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* All names in the certificate, as a JSON list. `localhost` is for connections through a port-forward. */}}
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
{{- fail "tls.mode is \"secret\" but tls.secretName is empty: set it to a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- end -}}

{{- define "outcrop.claim" -}}
{{- default (printf "%s-data" (include "outcrop.fullname" .)) .Values.aggregator.persistence.existingClaim -}}
{{- end -}}

{{- define "outcrop.policyConfigMap" -}}
{{- $policy := default (dict) .Values.policy -}}
{{- if and $policy.rego $policy.existingConfigMap -}}
{{- fail "policy.rego and policy.existingConfigMap are both set: set only one of them" -}}
{{- end -}}
{{- if $policy.existingConfigMap -}}
{{- $policy.existingConfigMap -}}
{{- else if $policy.rego -}}
{{- printf "%s-policy" (include "outcrop.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The variables of log events, where they differ from the programs' defaults: dict root, level (a program's own, or empty). */}}
{{- define "outcrop.logging" -}}
{{- $logging := .root.Values.logging -}}
{{- if ne $logging.format "text" }}
- name: OUTCROP_LOG_FORMAT
  value: {{ $logging.format }}
{{- end }}
{{- with default $logging.level .level }}{{ if ne . "info" }}
- name: OUTCROP_LOG
  value: {{ . | quote }}
{{- end }}{{ end }}
{{- end -}}

{{/* The port of the collector of traces: that of the URL, or the default port of its scheme. */}}
{{- define "outcrop.otlpPort" -}}
{{- $url := urlParse .Values.tracing.otlpEndpoint -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}

{{/* Fails where the values of traces contradict each other. */}}
{{- define "outcrop.checkTracing" -}}
{{- $tracing := .Values.tracing -}}
{{- $isTls := hasPrefix "https://" $tracing.otlpEndpoint -}}
{{- $hasCa := or $tracing.ca.existingConfigMap $tracing.ca.existingSecret -}}
{{- if and .Values.offline $tracing.otlpEndpoint -}}
{{- fail "offline and tracing.otlpEndpoint are both set: offline refuses connections to a collector" -}}
{{- end -}}
{{- if and $tracing.ca.existingConfigMap $tracing.ca.existingSecret -}}
{{- fail "tracing.ca.existingConfigMap and tracing.ca.existingSecret are both set: set only one of them" -}}
{{- end -}}
{{- if and $isTls (not $hasCa) -}}
{{- fail "tracing.otlpEndpoint is an https URL and requires a CA certificate: set tracing.ca.existingConfigMap or tracing.ca.existingSecret" -}}
{{- end -}}
{{- if and $hasCa (not $isTls) -}}
{{- fail "tracing.ca is used for an https collector only: set tracing.otlpEndpoint to an https URL" -}}
{{- end -}}
{{- end -}}

{{/* Namespaces to watch with scope: namespaced, as a JSON list. It always contains the release's own: agents authenticate with their pods. */}}
{{- define "outcrop.watched" -}}
{{- if eq .Values.scope "namespaced" -}}
{{- concat (list .Release.Namespace) .Values.watchNamespaces | uniq | toJson -}}
{{- else -}}
{{- if .Values.watchNamespaces -}}{{- fail "watchNamespaces requires scope: namespaced" -}}{{- end -}}
[]
{{- end -}}
{{- end -}}

{{- define "outcrop.dnsEgress" -}}
# DNS at any address: it listens in pods, on the node, or outside.
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - { protocol: UDP, port: {{ . | int }} }
    - { protocol: TCP, port: {{ . | int }} }
    {{- end }}
{{- end -}}

{{- /* Ports of the targets of deliveries, as a JSON list, each once. An address in a file is one of HTTPS at its usual port. */ -}}
{{- define "outcrop.deliverPorts" -}}
{{- $ports := list -}}
{{- range .Values.deliver.targets -}}
{{- range $kind, $settings := omit . "proxy" -}}
{{- if and (kindIs "map" $settings) (hasKey (default dict $settings) "url") -}}
{{- $url := urlParse $settings.url -}}
{{- $default := ternary "443" "80" (eq $url.scheme "https") -}}
{{- $ports = append $ports (default $default (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host))) -}}
{{- else if and (kindIs "map" $settings) (hasKey (default dict $settings) "urlFile") -}}
{{- $ports = append $ports "443" -}}
{{- else if eq $kind "email" -}}
{{- $default := get (dict "starttls" 587 "tls" 465 "none" 25) (default "starttls" $settings.security) -}}
{{- $ports = append $ports (toString (int (default $default $settings.port))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | sortAlpha | toJson -}}
{{- end -}}
