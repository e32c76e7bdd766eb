{{- define "tapedeck.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels of everything; `component` is optional. */}}
{{- define "tapedeck.labels" -}}
{{- $root := .root | default . -}}
app.kubernetes.io/name: tapedeck
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/part-of: tapedeck
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end }}

{{/* Labels that pods are found by: they never change. */}}
{{- define "tapedeck.selector" -}}
app.kubernetes.io/name: tapedeck
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "tapedeck.daemon" -}}
capture:
  backend: ebpf
  ring_size: {{ .Values.node.ringSize }}
archive:
  folder: /var/lib/tapedeck
  segment_size: {{ .Values.node.archive.segmentSize }}
  segment_age: {{ .Values.node.archive.segmentAge }}
  retain_size: {{ .Values.node.archive.retainSize }}
  retain_age: {{ .Values.node.archive.retainAge }}
  encrypt_to: {{ .Values.node.archive.encryptTo | toJson }}
budget:
  cpu: {{ .Values.node.budget.cpu }}
  memory: {{ .Values.node.budget.memory }}
control:
  listen: 0.0.0.0:9464
attribution:
  node_logs: /var/log
log:
  level: {{ .Values.node.logLevel }}
kubernetes:
  stores: /etc/tapedeck/stores.yaml
  quarantine: {{ .Values.node.quarantine }}
{{- end }}

{{- define "tapedeck.stores" -}}
{{ .Values.stores | toJson }}
{{- end }}

{{/* Secrets of stores as environment variables, behind a prefix that only their store sees. */}}
{{- define "tapedeck.storeSecrets" -}}
{{- range .Values.stores }}
{{- if .secret }}
- prefix: TAPEDECK_STORE_{{ .name | upper | replace "-" "_" }}_
  secretRef:
    name: {{ .secret }}
{{- end }}
{{- end }}
{{- end }}
