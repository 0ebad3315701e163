//! The checks of the rules.

use super::Findings;
use super::pod::{Container, Profile, SeLinux};

/// Containers with their paths; the debugging ones only where a standard covers them.
fn each(f: &mut Findings<'_>, ephemeral: bool, visit: impl Fn(&mut Findings<'_>, &Container, &str)) {
    let pod = f.pod;
    let debug = if ephemeral { pod.ephemeral_containers.as_slice() } else { &[] };
    for (kind, list) in [
        ("initContainers", pod.init_containers.as_slice()),
        ("containers", &pod.containers),
        ("ephemeralContainers", debug),
    ] {
        for (index, container) in list.iter().enumerate() {
            let name: String = container.name.chars().take(63).collect();
            let at = format!("spec.{kind}[{index}] ({name})");
            f.container = Some(name.into());
            visit(f, container, &at);
        }
    }
    f.container = None;
}

fn windows(f: &Findings<'_>) -> bool {
    f.pod.os.name == "windows"
}

fn confined(profile: &Profile) -> bool {
    matches!(profile.r#type.as_str(), "RuntimeDefault" | "Localhost")
}

pub(super) fn host_namespaces(f: &mut Findings<'_>) {
    for (set, path) in
        [(f.pod.host_network, "spec.hostNetwork"), (f.pod.host_pid, "spec.hostPID"), (f.pod.host_ipc, "spec.hostIPC")]
    {
        if set {
            f.add(path, "true");
        }
    }
}
pub(super) fn privileged(f: &mut Findings<'_>) {
    each(f, true, |f, c, at| {
        if c.security_context.privileged {
            f.add(format!("{at}.securityContext.privileged"), "true");
        }
    });
}
fn added_beyond(f: &mut Findings<'_>, c: &Container, at: &str, allowed: &[&str]) {
    for added in &c.security_context.capabilities.add {
        if !allowed.contains(&added.as_str()) {
            f.add(format!("{at}.securityContext.capabilities.add"), added);
        }
    }
}
pub(super) fn capabilities_baseline(f: &mut Findings<'_>) {
    const DEFAULT: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    each(f, true, |f, c, at| {
        added_beyond(f, c, at, &DEFAULT);
    });
}
pub(super) fn host_path(f: &mut Findings<'_>) {
    for (index, volume) in f.pod.volumes.iter().enumerate() {
        if let Some(host) = &volume.host_path {
            f.add(format!("spec.volumes[{index}].hostPath"), &host.path);
        }
    }
}
pub(super) fn host_ports(f: &mut Findings<'_>) {
    each(f, true, |f, c, at| {
        for port in &c.ports {
            if port.host_port != 0 {
                f.add(format!("{at}.ports.hostPort"), &port.host_port.to_string());
            }
        }
    });
}
pub(super) fn host_probes(f: &mut Findings<'_>) {
    each(f, true, |f, c, at| {
        for (name, handler) in [
            ("livenessProbe", &c.liveness_probe),
            ("readinessProbe", &c.readiness_probe),
            ("startupProbe", &c.startup_probe),
            ("lifecycle.postStart", &c.lifecycle.post_start),
            ("lifecycle.preStop", &c.lifecycle.pre_stop),
        ] {
            for (kind, target) in [("httpGet", &handler.http_get), ("tcpSocket", &handler.tcp_socket)] {
                if !target.host.is_empty() {
                    f.add(format!("{at}.{name}.{kind}.host"), &target.host);
                }
            }
        }
    });
}
fn profile(f: &mut Findings<'_>, profile: Option<&Profile>, path: String) {
    if let Some(profile) = profile
        && !confined(profile)
    {
        f.add(path, &profile.r#type);
    }
}
pub(super) fn app_armor(f: &mut Findings<'_>) {
    profile(f, f.pod.security_context.app_armor_profile.as_ref(), "spec.securityContext.appArmorProfile".to_owned());
    each(f, true, |f, c, at| {
        profile(f, c.security_context.app_armor_profile.as_ref(), format!("{at}.securityContext.appArmorProfile"))
    });
    for (key, value) in f.annotations {
        let allowed = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed {
            f.add(format!("metadata.annotations[{key}]"), value);
        }
    }
}
fn label(f: &mut Findings<'_>, label: Option<&SeLinux>, at: &str) {
    let Some(label) = label else { return };
    if !matches!(
        label.r#type.as_str(),
        "" | "container_t" | "container_init_t" | "container_kvm_t" | "container_engine_t"
    ) {
        f.add(format!("{at}.type"), &label.r#type);
    }
    if !label.user.is_empty() {
        f.add(format!("{at}.user"), &label.user);
    }
    if !label.role.is_empty() {
        f.add(format!("{at}.role"), &label.role);
    }
}
pub(super) fn se_linux(f: &mut Findings<'_>) {
    label(f, f.pod.security_context.se_linux_options.as_ref(), "spec.securityContext.seLinuxOptions");
    each(f, true, |f, c, at| {
        label(f, c.security_context.se_linux_options.as_ref(), &format!("{at}.securityContext.seLinuxOptions"))
    });
}
pub(super) fn proc_mount(f: &mut Findings<'_>) {
    each(f, true, |f, c, at| {
        if let Some(mount) = &c.security_context.proc_mount
            && mount != "Default"
        {
            f.add(format!("{at}.securityContext.procMount"), mount);
        }
    });
}
pub(super) fn seccomp_baseline(f: &mut Findings<'_>) {
    profile(f, f.pod.security_context.seccomp_profile.as_ref(), "spec.securityContext.seccompProfile".to_owned());
    each(f, true, |f, c, at| {
        profile(f, c.security_context.seccomp_profile.as_ref(), format!("{at}.securityContext.seccompProfile"))
    });
}
pub(super) fn sysctls(f: &mut Findings<'_>) {
    const SAFE: [&str; 12] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    ];
    for sysctl in &f.pod.security_context.sysctls {
        if !SAFE.contains(&sysctl.name.as_str()) {
            f.add("spec.securityContext.sysctls", &sysctl.name);
        }
    }
}
pub(super) fn host_process(f: &mut Findings<'_>) {
    if f.pod.security_context.windows_options.host_process {
        f.add("spec.securityContext.windowsOptions.hostProcess", "true");
    }
    each(f, true, |f, c, at| {
        if c.security_context.windows_options.host_process {
            f.add(format!("{at}.securityContext.windowsOptions.hostProcess"), "true");
        }
    });
}
pub(super) fn volume_types(f: &mut Findings<'_>) {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    for (index, volume) in f.pod.volumes.iter().enumerate() {
        let mut kinds = volume.sources.iter().filter(|(_, source)| source.is_some()).map(|(kind, _)| kind.as_str());
        if kinds.clone().any(|kind| ALLOWED.contains(&kind)) {
            continue;
        }
        let kind = if volume.host_path.is_some() { "hostPath" } else { kinds.next().unwrap_or("unknown") };
        f.add(format!("spec.volumes[{index}]"), kind);
    }
}
pub(super) fn escalation(f: &mut Findings<'_>) {
    if windows(f) {
        return;
    }
    each(f, true, |f, c, at| {
        if c.security_context.allow_privilege_escalation != Some(false) {
            f.add(format!("{at}.securityContext.allowPrivilegeEscalation"), "not false");
        }
    });
}
pub(super) fn non_root(f: &mut Findings<'_>) {
    let pod = f.pod.security_context.run_as_non_root;
    if pod == Some(false) {
        f.add("spec.securityContext.runAsNonRoot", "false");
    }
    each(f, true, |f, c, at| {
        if c.security_context.run_as_non_root.or(pod) != Some(true) {
            f.add(format!("{at}.securityContext.runAsNonRoot"), "not true");
        }
    });
}
pub(super) fn run_as_user(f: &mut Findings<'_>) {
    if f.pod.security_context.run_as_user == Some(0) {
        f.add("spec.securityContext.runAsUser", "0");
    }
    each(f, true, |f, c, at| {
        if c.security_context.run_as_user == Some(0) {
            f.add(format!("{at}.securityContext.runAsUser"), "0");
        }
    });
}
pub(super) fn seccomp_restricted(f: &mut Findings<'_>) {
    if windows(f) {
        return;
    }
    seccomp_baseline(f);
    let pod = f.pod.security_context.seccomp_profile.as_ref();
    each(f, true, |f, c, at| {
        if c.security_context.seccomp_profile.is_none() && !pod.is_some_and(confined) {
            f.add(format!("{at}.securityContext.seccompProfile"), "not set");
        }
    });
}
fn drops_all(c: &Container) -> bool {
    c.security_context.capabilities.drop.iter().any(|name| name == "ALL")
}
pub(super) fn capabilities_restricted(f: &mut Findings<'_>) {
    if windows(f) {
        return;
    }
    each(f, true, |f, c, at| {
        if !drops_all(c) {
            f.add(format!("{at}.securityContext.capabilities.drop"), "without ALL");
        }
        added_beyond(f, c, at, &["NET_BIND_SERVICE"]);
    });
}
fn limit(f: &mut Findings<'_>, name: &str) {
    each(f, false, |f, c, at| {
        if !c.resources.limits.contains_key(name) {
            f.add(format!("{at}.resources.limits.{name}"), "not set");
        }
    });
}
pub(super) fn cpu(f: &mut Findings<'_>) {
    limit(f, "cpu");
}
pub(super) fn memory(f: &mut Findings<'_>) {
    limit(f, "memory");
}
pub(super) fn read_only(f: &mut Findings<'_>) {
    each(f, false, |f, c, at| {
        if !c.security_context.read_only_root_filesystem {
            f.add(format!("{at}.securityContext.readOnlyRootFilesystem"), "not true");
        }
    });
}
pub(super) fn dropped(f: &mut Findings<'_>) {
    each(f, false, |f, c, at| {
        if !drops_all(c) {
            f.add(format!("{at}.securityContext.capabilities.drop"), "without ALL");
        }
    });
}
