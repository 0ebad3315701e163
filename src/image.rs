//! Image references.
//!
//! The grammar is that of the [distribution](https://github.com/distribution/reference) project:
//! `[REGISTRY/]PATH[:TAG][@DIGEST]`. A reference without a registry belongs to Docker Hub.

/// An image reference, in parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    /// Host and port of the registry; `None` where the reference names none.
    pub(crate) registry: Option<&'a str>,
    /// The repository, without `library/` of Docker Hub.
    pub(crate) path: &'a str,
    /// The tag.
    pub(crate) tag: Option<&'a str>,
    /// The digest: `sha256:…`.
    pub(crate) digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// Parses a reference. Any text is one; parts that it does not have are `None`.
    pub(crate) fn parse(text: &'a str) -> Self {
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a registry's port.
        let name = text.rfind('/').map_or(0, |slash| slash + 1);
        let (text, tag) = match text[name..].split_once(':') {
            Some((last, tag)) => (&text[..name + last.len()], Some(tag)),
            None => (text, None),
        };
        let (registry, path) = match text.split_once('/') {
            Some((host, path)) if host == "localhost" || host.contains(['.', ':']) => (Some(host), path),
            _ => (None, text),
        };
        let is_hub = registry.is_none_or(|registry| matches!(registry, "docker.io" | "index.docker.io"));
        let path = path.strip_prefix("library/").filter(|_| is_hub).unwrap_or(path);
        Self { registry: if is_hub { registry.map(|_| "docker.io") } else { registry }, path, tag, digest }
    }

    /// Returns whether this reference of a filter selects `image`: what the filter does not name may be anything.
    fn selects(&self, image: &Self, id: Option<&Self>) -> bool {
        let digest = image.digest.or_else(|| id?.digest);
        // A reference without a tag and a digest means the tag `latest`.
        let tag = image.tag.or_else(|| image.digest.is_none().then_some("latest"));
        self.path == image.path
            && self.registry.is_none_or(|registry| registry == image.registry.unwrap_or("docker.io"))
            && self.tag.is_none_or(|wanted| Some(wanted) == tag)
            && self.digest.is_none_or(|wanted| Some(wanted) == digest)
    }
}

/// Returns whether `wanted` selects an image by its name or by what the kubelet resolved it to: with or without registry, tag and digest, or by the
/// digest alone.
pub(crate) fn selects(wanted: &str, image: &str, id: Option<&str>) -> bool {
    if wanted == image || Some(wanted) == id {
        return true;
    }
    let (name, id) = (Reference::parse(image), id.map(Reference::parse));
    if wanted.starts_with("sha256:") {
        // An ID without a repository is the digest of the image's configuration.
        let bare = id.as_ref().filter(|id| id.path == "sha256").and_then(|id| id.tag);
        let digest = name.digest.or_else(|| id.as_ref()?.digest);
        return Some(wanted) == digest || wanted.strip_prefix("sha256:") == bare && bare.is_some();
    }
    let reference = Reference::parse(wanted);
    reference.selects(&name, id.as_ref())
        || id.as_ref().is_some_and(|id| reference.tag.is_none() && reference.selects(id, Some(id)))
}

#[cfg(test)]
mod tests {
    use super::selects;

    #[test]
    fn an_image_is_found_with_or_without_registry_tag_and_digest() {
        const ID: Option<&str> = Some("registry.example:5000/shop/web@sha256:aa");
        let web = |wanted: &str| selects(wanted, "registry.example:5000/shop/web:1.2", ID);
        for wanted in [
            "registry.example:5000/shop/web:1.2",
            "registry.example:5000/shop/web",
            "shop/web",
            "shop/web:1.2",
            "shop/web@sha256:aa",
            "shop/web:1.2@sha256:aa",
            "registry.example:5000/shop/web@sha256:aa",
            "sha256:aa",
        ] {
            assert!(web(wanted), "{wanted}");
        }
        for wanted in [
            "",
            "web",
            "shop",
            "shop/web:1.3",
            "shop/web:latest",
            "shop/web@sha256:bb",
            "sha256:a",
            "sha256:bb",
            "registry.example/shop/web",
            "docker.io/shop/web",
            "shop/web:",
        ] {
            assert!(!web(wanted), "{wanted}");
        }
    }

    #[test]
    fn docker_hub_is_the_default_registry_and_latest_the_default_tag() {
        for image in ["nginx", "docker.io/library/nginx:latest", "index.docker.io/library/nginx", "library/nginx"] {
            for wanted in
                ["nginx", "nginx:latest", "docker.io/nginx", "docker.io/library/nginx", "library/nginx:latest"]
            {
                assert!(selects(wanted, image, None), "{wanted} {image}");
            }
            assert!(!selects("nginx:1", image, None) && !selects("quay.io/nginx", image, None), "{image}");
        }
        assert!(!selects("nginx:latest", "nginx@sha256:aa", None), "a digest has no tag");
        assert!(!selects("nginx", "quay.io/library/nginx", None));
    }

    #[test]
    fn an_image_that_was_built_on_the_node_has_the_digest_of_its_configuration() {
        assert!(selects("sha256:cc", "shop:dev", Some("sha256:cc")));
        assert!(!selects("sha256:dd", "shop:dev", Some("sha256:cc")));
        assert!(selects("shop", "shop:dev", Some("sha256:cc")));
    }
}
