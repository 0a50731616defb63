//! What a file is that isn't what its name says: the ways in which files go astray.

/// Something that was taken for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// Completes "it is …".
    pub name: &'static str,
    /// The way out.
    pub hint: &'static str,
    plain: bool,
}

impl Foreign {
    /// Whether it is text, or nothing, that says no more about itself.
    pub fn is_plain(self) -> bool {
        self.plain
    }

    /// Whether it is the beginning of a NIfTI file.
    pub fn is_nifti(self) -> bool {
        self.name == NIFTI
    }
}

const NIFTI: &str = "a NIfTI file";
const AGAIN: &str = "copy or download the file again";
const CONVERT: &str = "convert it to NIfTI (.nii.gz) first";
const RENAME: &str = "give the file the ending of what it is, or convert it";

/// Bytes at an offset, what they say, the way out.
type Mark = (usize, &'static [u8], &'static str, &'static str);

const MARKS: &[Mark] = &[
    (
        0,
        b"version https://git-lfs.github.com/spec/",
        "a git-lfs pointer, not the file itself",
        "git lfs pull fetches it",
    ),
    (0, b"/annex/objects/", "a git-annex pointer, not the file itself", "git annex get"),
    // Before UTF-16, whose mark it begins with.
    (0, b"\xff\xfe\0\0", "UTF-32 text", "save the file as UTF-8"),
    (0, b"\0\0\xfe\xff", "UTF-32 text", "save the file as UTF-8"),
    (0, b"\xff\xfe", "UTF-16 text", "save the file as UTF-8"),
    (0, b"\xfe\xff", "UTF-16 text", "save the file as UTF-8"),
    (128, b"DICM", "a DICOM file", CONVERT),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture", RENAME),
    (0, b"\xff\xd8\xff", "a JPEG picture", "convert it to PNG first"),
    (0, b"GIF8", "a GIF picture", "convert it to PNG first"),
    (0, b"II*\0", "a TIFF picture", "convert it to PNG or NIfTI first"),
    (0, b"MM\0*", "a TIFF picture", "convert it to PNG or NIfTI first"),
    (0, b"II+\0", "a TIFF picture", "convert it to PNG or NIfTI first"),
    (0, b"NRRD00", "an NRRD file", CONVERT),
    (0, b"ObjectType =", "a MetaImage header", CONVERT),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (such as MINC or MATLAB 7.3)", CONVERT),
    (0, b"CDF\x01", "a NetCDF file (such as MINC)", CONVERT),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file", CONVERT),
    (0, b"\x93NUMPY", "a NumPy array (.npy)", RENAME),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (0, b"\xfd7zXZ\0", "xz-compressed", "unpack it first; gzip is read"),
    (0, b"BZh", "bzip2-compressed", "unpack it first; gzip is read"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", "unpack it first; gzip is read"),
    (257, b"ustar", "a tar archive", "unpack it first"),
    (0, b"\x1f\x8b", "gzip-compressed", "give it an ending with .gz, or unpack it first"),
    // The header's own size, or its magic where the version doesn't stand first.
    (0, b"\x5c\x01\0\0", NIFTI, RENAME),
    (0, b"\0\0\x01\x5c", NIFTI, RENAME),
    (4, b"n+2\0\r\n\x1a\n", NIFTI, RENAME),
    (0, b"\0\0\0\x01", "perhaps a FreeSurfer volume (.mgh)", "mri_convert makes NIfTI of it"),
];

/// What these first bytes of a file (some hundred are enough) are known to be; none where they say nothing.
pub(crate) fn foreign(bytes: &[u8]) -> Option<Foreign> {
    let certain = |name, hint| Some(Foreign { name, hint, plain: false });
    if bytes.is_empty() {
        return Some(Foreign { name: "empty", hint: AGAIN, plain: true });
    }
    let start = &bytes[..bytes.len().min(512)];
    let text = start.iter().all(|&b| is_text(b));
    // Within text a word in the middle says nothing.
    let marked = |(at, mark, ..): &&Mark| {
        (*at == 0 || !text) && bytes.get(*at..).is_some_and(|b| b.starts_with(mark))
    };
    let known = MARKS.iter().find(marked);
    if let Some(&(.., name, hint)) = known {
        return certain(name, hint);
    }
    if start.iter().all(|&b| b == 0) {
        return certain("nothing but zeros where it begins", AGAIN);
    }
    // Every second byte 0: letters of two bytes each, without a mark at the beginning.
    let wide = |odd: usize| start.iter().skip(odd).step_by(2).all(|&b| b == 0);
    let letters = |odd: usize| start.iter().skip(odd).step_by(2).all(|&b| is_text(b));
    if start.len() >= 8 && ((wide(0) && letters(1)) || (wide(1) && letters(0))) {
        return certain("UTF-16 text", "save the file as UTF-8");
    }
    // Likewise three of four.
    let letter = |bytes: &[u8], at: usize| {
        bytes.iter().enumerate().all(|(i, &b)| if i == at { is_text(b) } else { b == 0 })
    };
    let quads = |at: usize| start.chunks_exact(4).all(|bytes| letter(bytes, at));
    if start.len() >= 16 && (quads(0) || quads(3)) {
        return certain("UTF-32 text", "save the file as UTF-8");
    }
    let words = start.trim_ascii_start().to_ascii_lowercase();
    let begins = |word: &str| words.starts_with(word.as_bytes());
    match text {
        false => None,
        true if begins("<!doctype html") || begins("<html") => {
            let hint = "the download gave a web page, perhaps of an error; download the file again";
            certain("an HTML page", hint)
        }
        true if begins("<?xml") || begins("<error") => {
            let hint = "the download may have given an error message; download the file again";
            certain("XML text", hint)
        }
        true => Some(Foreign { name: "text", hint: AGAIN, plain: true }),
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_gone_astray_are_named() {
        let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        let utf16: Vec<u8> = "{\"labels\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut dicom = vec![0; 128];
        dicom.extend(b"DICM");
        let utf32: Vec<u8> =
            "{\"a\": 1, \"é\": 2}".chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
        let utf32_le: Vec<u8> = utf32.chunks(4).flat_map(|c| c.iter().rev().copied()).collect();
        let cases: [(&[u8], &str, bool); 15] = [
            (b"\xff\xfe\0\0{\0\0\0", "UTF-32 text", false),
            (b"\0\0\xfe\xff\0\0\0{", "UTF-32 text", false),
            (&utf32, "UTF-32 text", false),
            (&utf32_le, "UTF-32 text", false),
            (b"", "empty", true),
            (lfs.as_bytes(), "a git-lfs pointer, not the file itself", false),
            (b"/annex/objects/MD5E-s1", "a git-annex pointer, not the file itself", false),
            (b"\xff\xfe{\0", "UTF-16 text", false),
            (&utf16, "UTF-16 text", false),
            (&dicom, "a DICOM file", false),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG picture", false),
            (b"\n<!DOCTYPE html><html>", "an HTML page", false),
            (b"<?xml version='1.0'?><Error>", "XML text", false),
            (b"{\"a\": 1}", "text", true),
            (&[0; 600], "nothing but zeros where it begins", false),
        ];
        for (bytes, name, plain) in cases {
            let found = foreign(bytes).unwrap();
            assert_eq!((found.name, found.is_plain()), (name, plain));
        }
        let word = format!("{{{}: ustar", " ".repeat(255));
        assert_eq!(foreign(word.as_bytes()).unwrap().name, "text");
        assert_eq!(foreign(b"\x01\x02\x03\x04\x05\x06\x07\x08"), None);
    }
}
