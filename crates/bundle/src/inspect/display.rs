//! Problems as people read them, one line each.

use std::fmt;

use super::Problem;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingFile { path } => write!(f, "{path} is missing"),
            Self::BadFile { path, reason } => write!(f, "{path}: {reason}"),
            Self::MissingTensor {
                file,
                tensor,
                expected: Some(expected),
            } => {
                write!(f, "{file}: {tensor} is missing, expected {expected:?}")
            }
            Self::MissingTensor {
                file,
                tensor,
                expected: None,
            } => {
                write!(f, "{file}: {tensor} is missing")
            }
            Self::ExtraTensor {
                file,
                tensor,
                found,
            } => {
                write!(f, "{file}: {tensor} {found:?} does not belong there")
            }
            Self::WrongShape {
                file,
                tensor,
                expected,
                found,
            } => {
                write!(f, "{file}: {tensor} is {found:?}, expected {expected:?}")
            }
            Self::WrongDtype {
                file,
                tensor,
                expected,
                found,
            } => write!(f, "{file}: {tensor} holds {found}, expected {expected}"),
            Self::WrongModel {
                path,
                expected,
                found,
            } => write!(f, "{path}: expected {expected}; found {found}"),
        }
    }
}
