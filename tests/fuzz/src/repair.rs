//! Checksums, which random changes would never pass.

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

/// A picture whose chunks have right checksums, as far as they can be followed.
pub(crate) fn png(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()) {
        let end = at + 8 + u32::from_be_bytes(length) as usize;
        let Some(whole) = bytes.get(at + 4..end) else { break };
        let sum = crc32(whole).to_be_bytes();
        let Some(place) = bytes.get_mut(end..end + 4) else { break };
        place.copy_from_slice(&sum);
        at = end + 4;
    }
    bytes
}
