//! Coefficients on their way to a worker: binary, since they are the largest message by far.

use std::collections::BTreeMap;

use bytes::Bytes;
use likeness_domain::{RenderId, coefficients::Coefficients};
use serde::{Deserialize, Serialize};

use super::work::Refusal;
use crate::codec::{
    CodecError, MESSAGE_VERSION, Message, Parcel, from_json, json_messages, to_json,
};

const VERSION: &str = "Likeness-Version";
const TOKENS: &str = "Likeness-Tokens";
const K: &str = "Likeness-K";

/// A worker that holds a claim asks for one set of coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoefficientsRequest {
    /// Which render.
    pub render: RenderId,
    /// The worker's attempt.
    pub attempt: u32,
    /// Which set, by its [`Set::number`].
    pub set: u32,
}

/// Which coefficients of a render. The numbers go through the identities, then through the sliders' starts and ends, then
/// through the identities' base coefficients: a service of before sliders knows the first of these, and refuses all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Those of identity i, as in the grant's `coefficient_sets`.
    Identity(usize),
    /// Where slider i starts, as in the grant's `sliders`.
    Before(usize),
    /// Where slider i leads.
    After(usize),
    /// The base coefficients of identity i.
    Base(usize),
}

impl Set {
    /// Its number in a render of so many identities and sliders.
    pub fn number(self, identities: usize, sliders: usize) -> u32 {
        let place = match self {
            Self::Identity(at) => at,
            Self::Before(at) => identities + 2 * at,
            Self::After(at) => identities + 2 * at + 1,
            Self::Base(at) => identities + 2 * sliders + at,
        };
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// Which one a number means in a render of so many identities and sliders.
    pub fn from_number(number: u32, identities: usize, sliders: usize) -> Option<Self> {
        let place = number as usize;
        let Some(beyond) = place.checked_sub(identities) else {
            return Some(Self::Identity(place));
        };
        match beyond.checked_sub(2 * sliders) {
            None if beyond.is_multiple_of(2) => Some(Self::Before(beyond / 2)),
            None => Some(Self::After(beyond / 2)),
            Some(base) => (base < identities).then_some(Self::Base(base)),
        }
    }
}

json_messages!(CoefficientsRequest);

/// One set of coefficients, or why not. On the wire a set is little-endian f16, row by row, with its sizes and the
/// version in headers; a refusal is JSON without these headers.
#[derive(Clone, Debug, PartialEq)]
pub enum CoefficientsReply {
    /// Normalised coefficients; their `Debug` shows the sizes alone.
    Set(Coefficients),
    /// None.
    Refused {
        /// Why.
        reason: Refusal,
    },
}

#[derive(Serialize, Deserialize)]
struct Refused {
    reason: Refusal,
}

impl Message for CoefficientsReply {
    fn encode(&self) -> Result<Parcel, CodecError> {
        match self {
            Self::Set(coefficients) => Ok(encode_set(coefficients)),
            Self::Refused { reason } => {
                let body = to_json(&Refused { reason: *reason })?;
                Ok(Parcel {
                    headers: BTreeMap::new(),
                    body,
                })
            }
        }
    }

    fn decode(
        header: &dyn Fn(&'static str) -> Option<String>,
        body: &[u8],
    ) -> Result<Self, CodecError> {
        if header(VERSION).is_none() {
            let Refused { reason } = from_json(body)?;
            return Ok(Self::Refused { reason });
        }
        match number(header, VERSION)? {
            0 => return Err(CodecError::NoVersion),
            1..=MESSAGE_VERSION => {}
            found => return Err(CodecError::NewerVersion { found }),
        }
        let (tokens, k) = (number(header, TOKENS)?, number(header, K)?);
        Coefficients::from_f16_bytes(tokens as usize, k as usize, body)
            .map(Self::Set)
            .map_err(|error| CodecError::Binary {
                problem: error.to_string(),
            })
    }
}

fn encode_set(coefficients: &Coefficients) -> Parcel {
    let headers = [
        (VERSION, MESSAGE_VERSION.to_string()),
        (TOKENS, coefficients.tokens().to_string()),
        (K, coefficients.k().to_string()),
    ];
    let body = Bytes::copy_from_slice(&coefficients.to_f16_bytes());
    Parcel {
        headers: headers.into(),
        body,
    }
}

fn number(
    header: &dyn Fn(&'static str) -> Option<String>,
    name: &'static str,
) -> Result<u32, CodecError> {
    header(name)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| CodecError::Binary {
            problem: format!("the header {name} is no number"),
        })
}
