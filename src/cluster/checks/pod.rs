//! The part of a pod's specification that checks read; environment, arguments and commands are never decoded.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// Kubernetes may write `null` where a list or a map is empty.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

macro_rules! part {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$of])* #[serde(deserialize_with = "nullable")] pub $field: $type,)* }
    };
}

part! {
    /// `v1.PodSpec`.
    PodSpec {
        /// The node that it was given to; empty until then.
        node_name: String,
        /// Volumes of the pod.
        volumes: Vec<Volume>,
        /// Containers that run before the others.
        init_containers: Vec<Container>,
        /// Containers.
        containers: Vec<Container>,
        /// Containers added for debugging.
        ephemeral_containers: Vec<Container>,
        /// Shares the node's network.
        host_network: bool,
        /// Shares the node's process identifiers.
        #[serde(rename = "hostPID")] host_pid: bool,
        /// Shares the node's System V IPC.
        #[serde(rename = "hostIPC")] host_ipc: bool,
        /// The operating system that the pod names.
        os: Os,
        /// Settings for all containers.
        security_context: PodSecurityContext,
    }
}
part! {
    /// `v1.PodOS`.
    Os {
        /// `linux`, `windows`, or empty where it is not named.
        name: String,
    }
}
part! {
    /// `v1.PodSecurityContext`.
    PodSecurityContext {
        /// AppArmor profile.
        app_armor_profile: Option<Profile>,
        /// seccomp profile.
        seccomp_profile: Option<Profile>,
        /// SELinux label.
        se_linux_options: Option<SeLinux>,
        /// Refuses to start as root.
        run_as_non_root: Option<bool>,
        /// User id.
        run_as_user: Option<i64>,
        /// Kernel parameters.
        sysctls: Vec<Sysctl>,
        /// Options of Windows.
        windows_options: Windows,
    }
}
part! {
    /// `v1.SecurityContext` of a container.
    SecurityContext {
        /// May gain privileges.
        allow_privilege_escalation: Option<bool>,
        /// AppArmor profile.
        app_armor_profile: Option<Profile>,
        /// Capabilities.
        capabilities: Capabilities,
        /// Has all of the node's powers.
        privileged: bool,
        /// The masking of `/proc`.
        proc_mount: Option<String>,
        /// The root filesystem is read-only.
        read_only_root_filesystem: bool,
        /// Refuses to start as root.
        run_as_non_root: Option<bool>,
        /// User id.
        run_as_user: Option<i64>,
        /// SELinux label.
        se_linux_options: Option<SeLinux>,
        /// seccomp profile.
        seccomp_profile: Option<Profile>,
        /// Options of Windows.
        windows_options: Windows,
    }
}
part! {
    /// `v1.SeccompProfile` or `v1.AppArmorProfile`.
    Profile {
        /// `RuntimeDefault`, `Localhost` or `Unconfined`.
        r#type: String,
    }
}
part! {
    /// `v1.SELinuxOptions`.
    SeLinux {
        /// Type of the label.
        r#type: String,
        /// User of the label.
        user: String,
        /// Role of the label.
        role: String,
    }
}
part! {
    /// `v1.Sysctl`.
    Sysctl {
        /// Name of the parameter.
        name: String,
    }
}
part! {
    /// `v1.WindowsSecurityContextOptions`.
    Windows {
        /// Runs on the host itself.
        host_process: bool,
    }
}
part! {
    /// `v1.Capabilities`.
    Capabilities {
        /// Added to the runtime's default.
        add: Vec<String>,
        /// Taken from the runtime's default.
        drop: Vec<String>,
    }
}
part! {
    /// `v1.Container`.
    Container {
        /// Its name.
        name: String,
        /// Name of its image.
        image: String,
        /// `Always` for an init container that stays: a sidecar.
        restart_policy: String,
        /// Its ports.
        ports: Vec<Port>,
        /// Its resources.
        resources: Resources,
        /// Its security context.
        security_context: SecurityContext,
        /// Liveness probe.
        liveness_probe: Handler,
        /// Readiness probe.
        readiness_probe: Handler,
        /// Startup probe.
        startup_probe: Handler,
        /// Lifecycle hooks.
        lifecycle: Lifecycle,
    }
}
part! {
    /// `v1.ContainerPort`.
    Port {
        /// Port of the node; 0 is none.
        host_port: i32,
    }
}
part! {
    /// `v1.ResourceRequirements`.
    Resources {
        /// Names of the limits.
        limits: BTreeMap<String, IgnoredAny>,
    }
}
part! {
    /// `v1.Lifecycle`.
    Lifecycle {
        /// After the start.
        post_start: Handler,
        /// Before the end.
        pre_stop: Handler,
    }
}
part! {
    /// `v1.Probe` or `v1.LifecycleHandler`.
    Handler {
        /// An HTTP request.
        http_get: Target,
        /// A TCP connection.
        tcp_socket: Target,
    }
}
part! {
    /// The host of a handler.
    Target {
        /// Host; empty is the pod.
        host: String,
    }
}
part! {
    /// `v1.HostPathVolumeSource`.
    HostPath {
        /// Path on the node.
        path: String,
    }
}
part! {
    /// `v1.Volume`: its name, and which sources it has.
    Volume {
        /// Its name.
        name: String,
        /// A path of the node.
        host_path: Option<HostPath>,
        /// The other sources by their JSON names, with nothing of their contents.
        #[serde(flatten)] sources: BTreeMap<String, Option<IgnoredAny>>,
    }
}
