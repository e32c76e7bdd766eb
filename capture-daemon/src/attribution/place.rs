//! What the path of a cgroup says.

/// A place in the tree of cgroups, as container runtimes and the kubelet lay it out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// The UID of the pod.
    pub pod_uid: Option<String>,
    /// The id of the container, without the runtime's name.
    pub container_id: Option<String>,
}

/// What the path of a cgroup says, by the names that these give theirs:
///
/// - the kubelet, with the systemd driver `kubepods-burstable-podUID.slice` (the UID's dashes as
///   underscores), with the cgroupfs driver `kubepods/burstable/podUID`; below another path, too
///   (kind, a cgroup root of its own);
/// - containerd `cri-containerd-ID.scope`, CRI-O `crio-ID.scope`, Docker `docker-ID.scope` or
///   `docker/ID`, Podman `libpod-ID.scope`; with the cgroupfs driver the bare `ID`.
///
/// A container may divide its own cgroup further (systemd in a container, Docker in a pod): what
/// lies below belongs to the pod's container. Without a pod, the innermost container counts.
#[must_use]
pub fn place(path: &str) -> Place {
    let mut place = Place::default();
    let mut is_in_pods = false;
    for name in path.split('/') {
        is_in_pods |= name.contains("kubepods");
        if is_in_pods && let Some(uid) = pod_uid(name) {
            // A pod within a container of another one (kind): the inner one.
            place = Place {
                pod_uid: Some(uid),
                container_id: None,
            };
            continue;
        }
        if let Some(id) = container_id(name)
            && (place.pod_uid.is_none() || place.container_id.is_none())
        {
            place.container_id = Some(id.to_owned());
        }
    }
    place
}

/// The pod of a folder of that name.
fn pod_uid(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.rsplit_once("-pod") {
        Some((_, uid)) => uid,
        None => name.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    // Static pods have the hash of their manifest.
    let is_hash = uid.len() == 32 && is_hex(&uid);
    let is_uuid = uid.len() == 36
        && uid.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && uid.split('-').all(is_hex);
    (is_hash || is_uuid).then_some(uid)
}

/// The container of a folder of that name.
fn container_id(name: &str) -> Option<&str> {
    const PREFIXES: [&str; 4] = ["cri-containerd-", "crio-", "docker-", "libpod-"];
    let id = match name.strip_suffix(".scope") {
        Some(scope) => PREFIXES
            .iter()
            .find_map(|prefix| scope.strip_prefix(prefix))?,
        // Containerd with the cgroupfs driver puts its name before the id where it is asked to.
        None => PREFIXES
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .unwrap_or(name),
    };
    (id.len() == 64 && is_hex(id)).then_some(id)
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "2f37bcd5-2d1e-4ac2-a8a3-cb8e6bc50d9f";
    const ID: &str = "c7cb1e1b0a2a4f0f8e8e4f8e0f4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e";
    const OTHER: &str = "0000000000000000000000000000000000000000000000000000000000000001";

    #[track_caller]
    fn check(path: &str, pod: Option<&str>, container: Option<&str>) {
        let slice_uid = UID.replace('-', "_");
        let path = path
            .replace("S_UID", &slice_uid)
            .replace("UID", UID)
            .replace("OTHER", OTHER)
            .replace("ID", ID);
        let found = place(&path);
        assert_eq!(found.pod_uid.as_deref(), pod, "{path}");
        assert_eq!(found.container_id.as_deref(), container, "{path}");
    }

    #[test]
    fn drivers_and_runtimes_have_their_names() {
        let (pod, container) = (Some(UID), Some(ID));
        let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podS_UID.slice";
        check(&format!("{slice}/cri-containerd-ID.scope"), pod, container);
        check(&format!("{slice}/crio-ID.scope"), pod, container);
        check(&format!("{slice}/docker-ID.scope"), pod, container);
        let guaranteed = "/kubepods.slice/kubepods-podS_UID.slice/cri-containerd-ID.scope";
        check(guaranteed, pod, container);
        check("/kubepods/besteffort/podUID/ID", pod, container);
        check("/kubepods/podUID/ID", pod, container);
        check("/kubepods/podUID/cri-containerd-ID", pod, container);
        check("/docker/ID", None, container);
        check("/system.slice/docker-ID.scope", None, container);
        check("/machine.slice/libpod-ID.scope/container", None, container);
    }

    #[test]
    fn what_a_container_divides_stays_its_own() {
        let inside = "/kubepods/burstable/podUID/ID";
        let (pod, container) = (Some(UID), Some(ID));
        check(
            &format!("{inside}/system.slice/nginx.service"),
            pod,
            container,
        );
        check(&format!("{inside}/docker/OTHER"), pod, container);
        check(
            "/docker/OTHER/system.slice/docker-ID.scope",
            None,
            container,
        );
        // kind: a node in a container, with the kubelet's tree below.
        let kind = "/docker/OTHER/kubelet.slice/kubelet-kubepods.slice/\
                    kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podS_UID.slice/\
                    cri-containerd-ID.scope";
        check(kind, pod, container);
    }

    #[test]
    fn a_pod_without_a_container_and_no_pod_at_all() {
        check("/kubepods/burstable/podUID", Some(UID), None);
        check(
            "/kubepods/pod0123456789abcdef0123456789abcdef/ID",
            Some("0123456789abcdef0123456789abcdef"),
            Some(ID),
        );
        // The process that watches a container is not in it.
        let conmon = "/kubepods.slice/kubepods-podS_UID.slice/crio-conmon-ID.scope";
        check(conmon, Some(UID), None);
        for path in [
            "/",
            "",
            "/system.slice/nginx.service",
            "/user.slice/user-0.slice/session-1.scope",
            "/podcast/ID.service",
            "/kubepods/podUIDx",
            "/kubepods/pod-1",
            "/docker/IDID",
            "/podUID",
        ] {
            check(path, None, None);
        }
    }
}
