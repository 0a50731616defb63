//! What a cubin, the ELF image that the compiler writes, says of its kernels: their names (sections `.text.NAME`), and
//! in `.nv.info.NAME` the most threads of a block (the kernel's `KERNEL` line) and the bytes of its arguments. The second
//! section is not documented, but the same from CUDA 12.0 to 13.0 and from sm_80 to sm_120; where it isn't understood,
//! nothing is said of threads and arguments, and launches go unchecked.

/// A kernel of a cubin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// As in its `KERNEL` line.
    pub name: String,
    /// Threads of a block.
    pub threads: Option<u32>,
    /// Bytes of its argument struct.
    pub arguments: Option<usize>,
}

/// The kernels, by name; none if this is no cubin.
pub fn kernels(cubin: &[u8]) -> Option<Vec<Kernel>> {
    let sections = sections(cubin)?;
    let mut kernels: Vec<Kernel> = sections
        .iter()
        .filter_map(|(name, _)| name.strip_prefix(".text."))
        .map(|name| {
            let info = format!(".nv.info.{name}");
            let info = sections.iter().find(|(section, _)| *section == info);
            let info = info.map_or(&[][..], |(_, content)| content);
            let (threads, arguments) = (attribute(info, MAX_THREADS), attribute(info, PARAM_SIZE));
            Kernel {
                name: name.to_owned(),
                threads: threads.and_then(|value| word(value, 0)),
                arguments: arguments.and_then(|value| half(value, 0)).map(usize::from),
            }
        })
        .collect();
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    Some(kernels)
}

const MAX_THREADS: u8 = 0x05;
const PARAM_SIZE: u8 = 0x19;

/// Names and contents of the sections of a 64-bit little-endian ELF file that have a content.
fn sections(elf: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    const NO_BITS: u32 = 8;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, entry) = (long(elf, 0x28)?, usize::from(half(elf, 0x3a)?));
    let (count, names) = (usize::from(half(elf, 0x3c)?), usize::from(half(elf, 0x3e)?));
    let header = |index: usize| elf.get(table.checked_add(index * entry)?..)?.get(..entry);
    let content = |header: &[u8]| {
        if word(header, 4)? == NO_BITS {
            return Some(&[][..]);
        }
        elf.get(long(header, 0x18)?..)?.get(..long(header, 0x20)?)
    };
    let names = content(header(names)?)?;
    (0..count)
        .map(|index| {
            let header = header(index)?;
            let name = names.get(word(header, 0)? as usize..)?;
            let name = std::str::from_utf8(name.split(|&byte| byte == 0).next()?).ok()?;
            Some((name, content(header)?))
        })
        .collect()
}

/// The value of an attribute: records of a format byte, the attribute's number, and two bytes that are the value or, in
/// format 4, its length.
fn attribute(mut info: &[u8], wanted: u8) -> Option<&[u8]> {
    const SIZED: u8 = 4;
    while let [format, number, low, high, ..] = *info {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let value = if format == SIZED { info.get(4..4 + length)? } else { &info[2..4] };
        if number == wanted {
            return Some(value);
        }
        info = &info[if format == SIZED { 4 + length } else { 4 }..];
    }
    None
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn long(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_among_others() {
        let info = [
            4, 0x37, 4, 0, 130, 0, 0, 0, // a sized value
            3, 0x50, 0, 0, // one within the record
            4, 5, 12, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, // 256 × 1 × 1 threads
            3, 0x19, 24, 0, // 24 bytes of arguments
        ];
        assert_eq!(word(attribute(&info, MAX_THREADS).unwrap(), 0), Some(256));
        assert_eq!(half(attribute(&info, PARAM_SIZE).unwrap(), 0), Some(24));
        assert_eq!(attribute(&info, 0x2f), None);
        assert_eq!(attribute(&info[..9], MAX_THREADS), None);
    }

    #[test]
    fn what_is_no_cubin_has_no_kernels() {
        let mut cut = b"\x7fELF\x02\x01".to_vec();
        assert_eq!(kernels(&cut), None);
        cut.resize(64, 0xff);
        assert_eq!(kernels(&cut), None);
        assert_eq!(kernels(b"// PTX"), None);
    }
}
