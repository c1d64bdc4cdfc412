//! Telling file formats apart by their first bytes, so that a refusal can say what the file is.

use image::ImageFormat;

/// What a file claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A format that is read.
    Readable(ImageFormat),
    /// A known format that is not read, with the sentence for the user.
    Refused(&'static str),
    /// Nothing known.
    Unknown,
}

const HEIC: &str = "HEIC and HEIF photos are not read; export the photo as JPEG (on an iPhone: Settings, Camera, Formats, \
                    Most Compatible)";
const AVIF: &str = "AVIF pictures are not read; export the photo as JPEG, PNG or WebP";
const VIDEO: &str = "this is a video; send a still photo as JPEG, PNG or WebP";

/// First bytes of formats that are named and refused.
const REFUSED: [(&[u8], &str); 12] = [
    (
        b"GIF8",
        "GIF pictures are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"II*\0",
        "TIFF and raw camera files are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"MM\0*",
        "TIFF and raw camera files are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"BM",
        "BMP pictures are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"8BPS",
        "Photoshop files are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"%PDF",
        "PDF documents are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"\xff\x0a",
        "JPEG XL pictures are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"\0\0\0\x0cJXL ",
        "JPEG XL pictures are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"\0\0\0\x0cjP  ",
        "JPEG 2000 pictures are not read; export the photo as JPEG, PNG or WebP",
    ),
    (
        b"\0\0\x01\0",
        "icons are not read; send a photo as JPEG, PNG or WebP",
    ),
    (
        b"<svg",
        "SVG drawings are not read; send a photo as JPEG, PNG or WebP",
    ),
    (b"\x1aE\xdf\xa3", VIDEO),
];

/// Recognises a file by its first bytes.
pub(crate) fn sniff(bytes: &[u8]) -> Kind {
    if bytes.starts_with(b"\xff\xd8\xff") {
        return Kind::Readable(ImageFormat::Jpeg);
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Kind::Readable(ImageFormat::Png);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP".as_slice()) {
        return Kind::Readable(ImageFormat::WebP);
    }
    if bytes.get(4..8) == Some(b"ftyp".as_slice()) {
        return Kind::Refused(iso_media(bytes));
    }
    let refused = REFUSED.iter().find(|(magic, _)| bytes.starts_with(magic));
    refused.map_or(Kind::Unknown, |(_, hint)| Kind::Refused(hint))
}

/// An ISO base media file by its brands: the major one, then the compatible ones of the `ftyp` box.
fn iso_media(bytes: &[u8]) -> &'static str {
    let declared = bytes
        .first_chunk::<4>()
        .map_or(0, |size| u32::from_be_bytes(*size) as usize);
    let end = declared.min(bytes.len()).min(256);
    let brands: Vec<&[u8]> = bytes
        .get(8..end)
        .unwrap_or_default()
        .chunks_exact(4)
        .collect();
    let has = |wanted: &[&[u8; 4]]| {
        brands
            .iter()
            .any(|b| wanted.iter().any(|w| *b == w.as_slice()))
    };
    if has(&[b"avif", b"avis"]) {
        AVIF
    } else if has(&[
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1",
    ]) {
        HEIC
    } else {
        VIDEO
    }
}

/// Whether a JPEG file runs to its end-of-image marker.
///
/// The decoder fills the missing part of a truncated file with grey, and half a face must not be enrolled. Bytes after
/// the marker are fine: phones append depth maps and clips there.
pub(crate) fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            0xd9 => return true,
            // Restart and temporary markers stand alone.
            0x01 | 0xd0..=0xd7 => {}
            _ => {
                let Some(length) = bytes.get(at..at + 2) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
    false
}

/// The next marker's code, skipping entropy-coded data (where 0xff is followed by 0) and fill bytes.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let rest = bytes.get(*at..)?;
        let found = rest.iter().position(|b| *b == 0xff)?;
        *at += found + 1;
        match *bytes.get(*at)? {
            0xff => {}
            0 => *at += 1,
            code => {
                *at += 1;
                return Some(code);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ftyp(brands: &[&[u8; 4]]) -> Vec<u8> {
        let mut bytes = ((8 + 4 * brands.len()) as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(b"ftyp");
        for brand in brands {
            bytes.extend_from_slice(*brand);
        }
        bytes.extend_from_slice(b"avif outside the box");
        bytes
    }

    #[test]
    fn phone_formats_are_told_apart_by_their_brands() {
        assert_eq!(
            sniff(&ftyp(&[b"heic", b"\0\0\0\0", b"mif1"])),
            Kind::Refused(HEIC)
        );
        assert_eq!(
            sniff(&ftyp(&[b"mif1", b"\0\0\0\0", b"heic"])),
            Kind::Refused(HEIC)
        );
        assert_eq!(
            sniff(&ftyp(&[b"mif1", b"\0\0\0\0", b"avif"])),
            Kind::Refused(AVIF)
        );
        assert_eq!(
            sniff(&ftyp(&[b"isom", b"\0\0\0\0", b"mp42"])),
            Kind::Refused(VIDEO)
        );
    }

    #[test]
    fn text_is_unknown() {
        assert_eq!(sniff(b"hello"), Kind::Unknown);
        assert_eq!(sniff(b""), Kind::Unknown);
    }
}
