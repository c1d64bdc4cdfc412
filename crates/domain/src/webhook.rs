//! Webhooks: which addresses may be called.
//!
//! A tenant chooses the URL, and the call comes from inside the network: an address that is not public is refused, by
//! name and by what the name stands for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The longest URL in bytes.
const MAX_URL: usize = 2048;

/// Which addresses webhooks may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Public ones, over https.
    Public,
    /// Any, also over http: for installations whose tenants are trusted, and for tests.
    Any,
}

impl Reach {
    /// Whether an address may be called.
    pub fn covers(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Public => is_public(address),
        }
    }
}

/// Reads the URL of a webhook.
///
/// # Errors
/// What was expected instead.
pub fn check_url(text: &str, reach: Reach) -> Result<Url, &'static str> {
    if text.len() > MAX_URL {
        return Err("expected at most 2048 bytes");
    }
    let url = Url::parse(text).map_err(|_| "expected an https URL")?;
    let fits = match reach {
        Reach::Public => url.scheme() == "https",
        Reach::Any => matches!(url.scheme(), "http" | "https"),
    };
    if !fits {
        return Err("expected an https URL");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("expected a URL without user, password and fragment");
    }
    let address = match url.host() {
        None => return Err("expected a URL with a host"),
        Some(Host::Domain(_)) => None,
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
    };
    match address {
        Some(address) if !reach.covers(address) => Err("expected a public address"),
        _ => Ok(url),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// The special-purpose registry of RFC 6890, as far as it is not globally reachable.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        // This network; shared between a provider and its customers; protocol assignments; benchmarks; reserved, with
        // broadcast.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && (b == 18 || b == 19))
        || a >= 240;
    !special
}

/// Global unicast alone, without what carries other addresses in it.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let global = a & 0xe000 == 0x2000;
    // Teredo and other protocol assignments; 6to4; documentation.
    let special = (a == 0x2001 && b < 0x0200)
        || a == 0x2002
        || (a == 0x2001 && b == 0x0db8)
        || (a == 0x3fff && b < 0x1000);
    global && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_may_be_called_and_no_others() {
        for public in ["1.1.1.1", "172.15.0.1", "172.32.0.1", "2606:4700::1111"] {
            assert!(Reach::Public.covers(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            let address = other.parse().unwrap();
            assert!(!Reach::Public.covers(address), "{other}");
            assert!(Reach::Any.covers(address));
        }
    }

    #[test]
    fn a_url_is_https_and_names_a_public_host() {
        for good in ["https://app.example/hook?x=1", "https://app.example:8443/"] {
            assert!(check_url(good, Reach::Public).is_ok(), "{good}");
        }
        let long = format!("https://app.example/{}", "x".repeat(2048));
        for bad in [
            "",
            "app.example",
            "http://app.example/",
            "ftp://app.example/",
            "https://",
            "https://u:p@app.example/",
            "https://app.example/#x",
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "file:///etc/passwd",
            &long,
        ] {
            assert!(check_url(bad, Reach::Public).is_err(), "{bad}");
        }
        assert!(check_url("http://127.0.0.1:9/", Reach::Any).is_ok());
        assert!(check_url("ftp://127.0.0.1:9/", Reach::Any).is_err());
    }
}
