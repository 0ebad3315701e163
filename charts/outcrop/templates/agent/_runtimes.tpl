{{/*
Directories of a node: the documented defaults of each kind of node, overridden by agent.paths.
Argument: dict agent (the values of one DaemonSet). Result: a JSON dict with socket, socketDirectory, root, state, tasks, pods, propagation, covered.
*/}}
{{- define "outcrop.paths" -}}
{{- $known := dict
  "containerd" (dict "socket" "/run/containerd/containerd.sock" "root" "/var/lib/containerd" "state" "/run/containerd")
  "bottlerocket" (dict "socket" "/run/containerd/containerd.sock" "root" "/var/lib/containerd" "state" "/run/containerd")
  "k3s" (dict "socket" "/run/k3s/containerd/containerd.sock" "root" "/var/lib/rancher/k3s/agent/containerd" "state" "/run/k3s/containerd")
  "rke2" (dict "socket" "/run/k3s/containerd/containerd.sock" "root" "/var/lib/rancher/rke2/agent/containerd" "state" "/run/k3s/containerd")
  "k0s" (dict "socket" "/run/k0s/containerd.sock" "root" "/var/lib/k0s/containerd" "state" "/run/k0s/containerd")
  "microk8s" (dict "socket" "/var/snap/microk8s/common/run/containerd.sock" "root" "/var/snap/microk8s/common/var/lib/containerd" "state" "/var/snap/microk8s/common/run/containerd")
-}}
{{- $paths := dict -}}
{{- range $key, $usual := get $known .agent.runtime -}}
{{- /* /var/run is a link to /run: use one name, so that prefixes can be compared. */ -}}
{{- $path := default $usual (get $.agent.paths $key) | clean -}}
{{- $_ := set $paths $key (regexReplaceAll "^/var/run(/|$)" $path "/run${1}") -}}
{{- end -}}
{{- $directory := dir $paths.socket -}}
{{- if has $directory (list "/" "/run") -}}
{{- fail (printf "agent.paths.socket is %s: its whole directory is mounted, and %s contains sockets of other services; configure containerd to listen in a separate directory" $paths.socket $directory) -}}
{{- end -}}
{{- $_ := set $paths "socketDirectory" $directory -}}
{{- /* Not the state directory: it contains the sockets of containerd and its shims, which the reader must not reach. */ -}}
{{- $_ := set $paths "tasks" (printf "%s/io.containerd.runtime.v2.task" $paths.state) -}}
{{- /* The CRI plugin mounts pods' /dev/shm here. */ -}}
{{- $_ := set $paths "pods" (printf "%s/io.containerd.grpc.v1.cri" $paths.state) -}}
{{- $below := hasPrefix (printf "%s/" $directory) (printf "%s/" $paths.state) -}}
{{- $_ := set $paths "propagation" (default (ternary "HostToContainer" "None" $below) .agent.socketMountPropagation) -}}
{{- $_ := set $paths "covered" $below -}}
{{- $paths | toJson -}}
{{- end -}}
