//! Proxies: those of the environment or of the configuration, and the hosts that are contacted without one.

use std::net::IpAddr;

/// Returns the URL of the proxy for a host, from the variables of the environment, or from a configured proxy.
pub(super) fn for_host(configured: Option<(&str, &str)>, is_secure: bool, host: &str, port: u16) -> Option<String> {
    let variable = |name: &str| {
        let values = [name.to_ascii_uppercase(), name.to_ascii_lowercase()].map(|name| std::env::var(name).ok());
        values.into_iter().flatten().find(|value| !value.is_empty())
    };
    let (url, except) = match configured {
        Some((url, except)) => (url.to_owned(), except.to_owned()),
        None => {
            let url =
                variable(if is_secure { "https_proxy" } else { "http_proxy" }).or_else(|| variable("all_proxy"))?;
            (url, variable("no_proxy").unwrap_or_default())
        }
    };
    (!url.is_empty() && !is_excepted(&except, host, port)).then_some(url)
}

/// Returns whether a list as in `NO_PROXY` has a host: `*`, a domain and everything below it, `*.domain`, an address, or a network in CIDR notation; each
/// with or without a port.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let (name, wanted) = split_port(&entry);
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        let name = name.trim_start_matches('[').trim_end_matches(']');
        match (name, address) {
            ("*", _) => true,
            (name, Some(address)) => is_in_network(name, address),
            (name, None) => {
                let domain = name.trim_start_matches('*').trim_start_matches('.').trim_end_matches('.');
                // With a leading dot or star, only what is below the domain.
                let is_below = host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
                !domain.is_empty() && (is_below || host == domain && name.trim_end_matches('.') == domain)
            }
        }
    })
}

/// Splits the port off an entry. An IPv6 address without brackets has none.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

/// Returns whether an address is the one of this text, or in its network.
fn is_in_network(text: &str, address: IpAddr) -> bool {
    let (network, length) = match text.split_once('/') {
        Some((network, length)) => (network, length.parse::<u32>().ok()),
        None => (text, Some(128)),
    };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let (Ok(network), Some(length)) = (network.parse::<IpAddr>(), length) else { return false };
    let ((network, width), (address, own)) = (bits(network), bits(address));
    let kept = length.min(width);
    width == own && (kept == 0 || (network ^ address) >> (128 - kept) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_excepts_hosts_domains_addresses_networks_and_ports() {
        for (list, host, port, expected) in [
            ("*", "a.example", 443, true),
            ("", "a.example", 443, false),
            ("a.example", "a.example", 443, true),
            ("a.example", "x.a.example", 443, true),
            ("a.example", "xa.example", 443, false),
            (".a.example", "x.a.example", 443, true),
            (".a.example", "a.example", 443, false),
            ("*.a.example", "x.y.a.example", 443, true),
            ("*.a.example", "a.example", 443, false),
            ("A.Example", "a.EXAMPLE.", 443, true),
            ("a.example:8443", "a.example", 8443, true),
            ("a.example:8443", "a.example", 443, false),
            ("b.example, a.example", "a.example", 443, true),
            ("10.0.0.1", "10.0.0.1", 80, true),
            ("10.0.0.1", "10.0.0.2", 80, false),
            ("10.0.0.0/8", "10.1.2.3", 80, true),
            ("10.0.0.0/8", "11.1.2.3", 80, false),
            ("10.0.0.0/8:81", "10.1.2.3", 80, false),
            ("10.0.0.0/99", "10.1.2.3", 80, false),
            ("0.0.0.0/0", "10.1.2.3", 80, true),
            ("fd00::/8", "fd12::1", 80, true),
            ("fd00::/8", "10.1.2.3", 80, false),
            ("[fd12::1]:80", "fd12::1", 80, true),
            ("[fd12::1]:81", "fd12::1", 80, false),
            ("fd12::1", "fd12::1", 80, true),
            ("10.0.0.0/8", "ten.example", 80, false),
            (",,", "a.example", 80, false),
            (".", "a.example", 80, false),
        ] {
            assert_eq!(is_excepted(list, host, port), expected, "{list} {host}:{port}");
        }
    }

    #[test]
    fn a_configured_proxy_counts_before_the_environment() {
        let of = |configured| for_host(Some(configured), true, "a.example", 443);
        assert_eq!(of(("http://proxy:3128", "")), Some("http://proxy:3128".to_owned()));
        assert_eq!(of(("http://proxy:3128", "a.example")), None);
        assert_eq!(of(("", "")), None, "an empty URL is none at all");
    }
}
