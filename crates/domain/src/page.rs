//! Pages of lists: keyset pagination over ids, with an opaque token.

use uuid::Uuid;

use crate::Error;

const DEFAULT_SIZE: u32 = 50;
const MAX_SIZE: u32 = 1000;

/// Which page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many rows at most.
    pub size: u32,
    /// The last id of the page before.
    pub after: Option<Uuid>,
}

impl Page {
    /// Reads a request's page fields.
    ///
    /// # Errors
    /// A negative size, or a token that is none of ours.
    pub fn from_request(size: i32, token: &str) -> Result<Self, Error> {
        let size = match u32::try_from(size) {
            Err(_) => return Err(Error::invalid_field("page_size", "expected 0 or more")),
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
        };
        let after = match token {
            "" => None,
            token => Some(Uuid::parse_str(token).map_err(|_| {
                Error::invalid_field("page_token", "expected next_page_token of the page before")
            })?),
        };
        Ok(Self { size, after })
    }

    /// The token of the next page: the last row's id where the page is full, else empty.
    pub fn next_token<T>(&self, rows: &[T], id: impl Fn(&T) -> Uuid) -> String {
        match rows.last() {
            Some(last) if rows.len() >= self.size as usize => id(last).simple().to_string(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_defaulted_and_bounded() {
        assert_eq!(Page::from_request(0, "").unwrap().size, DEFAULT_SIZE);
        assert_eq!(Page::from_request(1_000_000, "").unwrap().size, MAX_SIZE);
        assert!(Page::from_request(-1, "").is_err());
    }

    #[test]
    fn a_full_page_has_a_next_one_and_its_token_reads_back() {
        let id = Uuid::from_u128(7);
        let page = Page {
            size: 1,
            after: None,
        };
        let token = page.next_token(&[id], |id| *id);
        assert_eq!(Page::from_request(1, &token).unwrap().after, Some(id));
        assert_eq!(
            Page {
                size: 2,
                after: None
            }
            .next_token(&[id], |id| *id),
            ""
        );
        assert!(Page::from_request(1, "nonsense").is_err());
    }
}
