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
{{- $secrets := .Files.Get "files/secret-options.json" | fromJson }}
{{- $names := dict }}
{{- range $store := .Values.stores }}
{{- if hasKey $names .name }}
{{- fail (printf "stores: two stores are called %s" .name) }}
{{- end }}
{{- $_ := set $names .name true }}
{{- if hasPrefix "file:" .url }}
{{- if not (regexMatch "^file:///snapshots(/|$)" .url) }}
{{- fail (printf "stores: %s: %s is in no volume: the only one is mounted at /snapshots, so that its address begins with file:///snapshots" .name .url) }}
{{- end }}
{{- if not $.Values.snapshotVolume.claimName }}
{{- fail (printf "stores: %s: nothing is mounted at /snapshots: set snapshotVolume.claimName to a claim that all nodes can mount (ReadWriteMany)" .name) }}
{{- end }}
{{- end }}
{{- range $option, $_ := .options }}
{{- with get $secrets (lower $option) }}
{{- fail (printf "stores: %s: %s is a secret, and would stand in a ConfigMap: make it the key %s of the Secret that `secret` names" $store.name $option .) }}
{{- end }}
{{- end }}
{{- end }}
{{- .Values.stores | toJson }}
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
