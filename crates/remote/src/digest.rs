//! MD5, by which services check that an upload came through whole. It protects against accidents only.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest, Md5};

use crate::encode::hex;

fn md5(parts: &[Bytes]) -> impl AsRef<[u8]> {
    let mut hasher = Md5::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// MD5 of parts in Base64, as `Content-MD5` has it.
pub(crate) fn md5_base64(parts: &[Bytes]) -> String {
    STANDARD.encode(md5(parts))
}

/// MD5 of parts in hexadecimal digits, as entity tags have it.
pub(crate) fn md5_hex(parts: &[Bytes]) -> String {
    hex(md5(parts).as_ref())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{md5_base64, md5_hex};

    #[test]
    fn digests_are_those_of_the_standard() {
        let parts = [Bytes::from_static(b"message "), Bytes::new(), Bytes::from_static(b"digest")];
        assert_eq!(md5_hex(&parts), "f96b697d7cb7938d525a2f31aaf161d0");
        assert_eq!(md5_base64(&parts), "+WtpfXy3k41SWi8xqvFh0A==");
    }
}
