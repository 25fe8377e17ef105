//! PAX extended headers: records of `length key=value\n` for values that do not fit in a ustar header.
//!
//! A record is delimited by its length, never by its newline, because values hold any bytes. The last record of a key
//! counts. An empty value removes the key, except for extended attributes, which may be empty. Keys without a meaning
//! for a layer (`atime`, `ctime`, `uname`, `gname`, `comment`, `hdrcharset`, `SCHILY.acl.*`, keys of vendors) are
//! ignored: names are bytes in any character set.
//!
//! # References
//! POSIX.1-2024 `pax`, "pax Header Block"; star's `SCHILY.xattr`, libarchive's `LIBARCHIVE.xattr`; GNU tar manual,
//! "Storing Sparse Files".

use super::base64;
use super::limits::Limits;
use crate::changeset::Segment;
use crate::error::{Error, ErrorKind, Result};
use crate::tree::{Timestamp, Xattrs};

/// Key prefix of an extended attribute with a raw value.
pub(super) const SCHILY_XATTR: &[u8] = b"SCHILY.xattr.";

/// Key prefix of an extended attribute with a URL-encoded name and a base64 value.
pub(super) const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";

const GNU_SPARSE: &[u8] = b"GNU.sparse.";

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Number of fractional digits that a file system stores.
const NANO_DIGITS: usize = 9;

/// Values of an extended header for the next entry.
#[derive(Debug, Default)]
pub(super) struct Pax {
    /// Path as written.
    pub(super) path: Option<Vec<u8>>,
    /// Link target as written.
    pub(super) linkpath: Option<Vec<u8>>,
    /// Number of bytes after the entry's header.
    pub(super) size: Option<u64>,
    /// Owner, not yet checked for range.
    pub(super) uid: Option<u64>,
    /// Group, not yet checked for range.
    pub(super) gid: Option<u64>,
    /// Modification time.
    pub(super) mtime: Option<Timestamp>,
    /// Extended attributes of all namespaces.
    pub(super) xattrs: Xattrs,
    /// Sparse map.
    pub(super) sparse: Option<PaxSparse>,
}

/// The records of GNU.sparse.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    /// Version of the map, given since 1.0.
    pub(super) major: u64,
    pub(super) minor: u64,
    /// Real path of the file: the path in the header is invented.
    pub(super) name: Option<Vec<u8>>,
    /// Length of the file including holes.
    pub(super) size: Option<u64>,
    /// Map of 0.0 and 0.1; the map of 1.0 precedes the data.
    pub(super) segments: Vec<Segment>,
    /// Offset of the current pair: 0.0 has the offset in one record and the length in the next.
    offset: Option<u64>,
}

impl Pax {
    /// Parses the records.
    ///
    /// # Errors
    /// `DataLoss` for malformed records and values; `ResourceExhausted` beyond the limit on extended attributes.
    pub(super) fn parse(body: &[u8], limits: &Limits) -> Result<Self> {
        let mut pax = Self::default();
        let mut secondary = Xattrs::new();
        let mut xattr_bytes = 0;
        let mut rest = body;
        while !rest.is_empty() {
            let (key, value) = split_record(&mut rest)?;
            if let Some(name) = key.strip_prefix(SCHILY_XATTR) {
                xattr_bytes += name.len() + value.len();
                insert(&mut pax.xattrs, name.to_vec(), value.to_vec())?;
            } else if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR) {
                xattr_bytes += name.len() + value.len();
                insert(&mut secondary, url_decode(name), libarchive_value(name, value)?)?;
            } else if let Some(key) = key.strip_prefix(GNU_SPARSE) {
                pax.sparse.get_or_insert_default().take(key, value)?;
            } else {
                pax.take(key, value)?;
            }
            if xattr_bytes > limits.xattr_bytes {
                let message = format!("more than {} bytes of extended attributes", limits.xattr_bytes);
                return Err(Error::new(ErrorKind::ResourceExhausted, message));
            }
        }
        for (name, value) in secondary {
            pax.xattrs.entry(name).or_insert(value);
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.linkpath = given.then(|| value.to_vec()),
            b"size" => self.size = given.then(|| decimal(value, "size")).transpose()?,
            b"uid" => self.uid = given.then(|| decimal(value, "uid")).transpose()?,
            b"gid" => self.gid = given.then(|| decimal(value, "gid")).transpose()?,
            b"mtime" => self.mtime = given.then(|| parse_time(value)).transpose()?,
            _ => {}
        }
        Ok(())
    }
}

impl PaxSparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"major" => self.major = decimal(value, "GNU.sparse.major")?,
            b"minor" => self.minor = decimal(value, "GNU.sparse.minor")?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value, "GNU.sparse.size")?),
            b"offset" => self.offset = Some(decimal(value, "GNU.sparse.offset")?),
            b"numbytes" => {
                let length = decimal(value, "GNU.sparse.numbytes")?;
                let offset = self.offset.take();
                let offset = offset.ok_or_else(|| Error::data_loss("GNU.sparse.numbytes without an offset"))?;
                self.segments.push(Segment { offset, length });
            }
            b"map" => self.segments = parse_map(value)?,
            _ => {}
        }
        Ok(())
    }
}

/// Parses the map of 0.1: `offset,length,offset,length`.
fn parse_map(value: &[u8]) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut numbers = value.split(|byte| *byte == b',').filter(|number| !number.is_empty());
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or_else(|| Error::data_loss("GNU.sparse.map has an odd count of numbers"))?;
        segments
            .push(Segment { offset: decimal(offset, "GNU.sparse.map")?, length: decimal(length, "GNU.sparse.map")? });
    }
    Ok(segments)
}

/// Splits off the first record.
fn split_record<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
    let malformed = |what: &str| Error::data_loss(format!("a PAX record {what}"));
    let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(|| malformed("without a length"))?;
    let length = decimal(&rest[..space], "length of a PAX record")?;
    let length = usize::try_from(length).ok().filter(|length| (space + 2..=rest.len()).contains(length));
    let (record, after) = rest.split_at(length.ok_or_else(|| malformed("is longer or shorter than it says"))?);
    let Some((b'\n', body)) = record[space + 1..].split_last() else {
        return Err(malformed("does not end where it says"));
    };
    let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(|| malformed("without a key"))?;
    *rest = after;
    match (&body[..equals], &body[equals + 1..]) {
        (b"", _) => Err(malformed("with an empty key")),
        (key, _) if key.contains(&0) => Err(malformed("with a NUL byte in its key")),
        (key, value) => Ok((key, value)),
    }
}

/// Parses a number of decimal digits only.
pub(super) fn decimal(digits: &[u8], what: &str) -> Result<u64> {
    let malformed = || Error::data_loss(format!("the {what} is no number: \"{}\"", digits.escape_ascii()));
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    digits
        .iter()
        .try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or_else(malformed)
}

/// Parses seconds with an optional sign and fraction. Digits after the ninth are dropped. Seconds beyond 64 bits become
/// the nearest value that fits, because the range of file systems is narrower anyway.
fn parse_time(value: &[u8]) -> Result<Timestamp> {
    let malformed = || Error::data_loss(format!("the mtime is no time: \"{}\"", value.escape_ascii()));
    let (negative, number) = value.strip_prefix(b"-").map_or((false, value), |number| (true, number));
    let mut parts = number.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if whole.is_empty() || ![whole, fraction].iter().all(|part| part.iter().all(u8::is_ascii_digit)) {
        return Err(malformed());
    }
    let digit = |at: usize| fraction.get(at).map_or(0, |digit| i128::from(digit - b'0'));
    let nanos = (0..NANO_DIGITS).fold(0, |nanos, at| nanos * 10 + digit(at));
    let seconds =
        whole.iter().fold(0_u64, |seconds, digit| seconds.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    let total = i128::from(seconds) * NANOS_PER_SECOND + nanos;
    let total = if negative { -total } else { total };
    Ok(Timestamp {
        seconds: i64::try_from(total.div_euclid(NANOS_PER_SECOND)).unwrap_or(if negative {
            i64::MIN
        } else {
            i64::MAX
        }),
        nanos: u32::try_from(total.rem_euclid(NANOS_PER_SECOND)).unwrap_or(0),
    })
}

fn insert(xattrs: &mut Xattrs, name: Vec<u8>, value: Vec<u8>) -> Result<()> {
    if name.is_empty() || name.contains(&0) {
        return Err(Error::data_loss(format!("an extended attribute called \"{}\"", name.escape_ascii())));
    }
    xattrs.insert(name, value);
    Ok(())
}

fn libarchive_value(name: &[u8], value: &[u8]) -> Result<Vec<u8>> {
    base64::decode(value)
        .ok_or_else(|| Error::data_loss(format!("the value of LIBARCHIVE.xattr.{} is no base64", name.escape_ascii())))
}

/// Decodes `%41` as `A`; a `%` without hexadecimal digits is literal.
fn url_decode(name: &[u8]) -> Vec<u8> {
    let hex = |digit: Option<&u8>| digit.and_then(|digit| char::from(*digit).to_digit(16));
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, hex(after.first()), hex(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => decoded.push(*first),
        }
    }
    decoded
}

/// Appends a record.
pub(super) fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length includes its own digits, a space, an equals sign and a newline.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        records.extend_from_slice(part);
    }
}

/// Appends an extended attribute: as SCHILY.xattr, or as LIBARCHIVE.xattr if its name contains `=`, which would end the
/// key.
pub(super) fn push_xattr(records: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if name.contains(&b'=') {
        let key = [LIBARCHIVE_XATTR, &url_encode(name)].concat();
        push_record(records, &key, &base64::encode(value));
    } else {
        push_record(records, &[SCHILY_XATTR, name].concat(), value);
    }
}

/// Encodes `=` as `%3D`, and likewise `%` and everything that is not printable ASCII.
fn url_encode(name: &[u8]) -> Vec<u8> {
    name.iter().fold(Vec::with_capacity(name.len()), |mut encoded, byte| {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'=') {
            encoded.push(*byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
        encoded
    })
}

/// Formats a time in the shortest form: without an empty fraction and without trailing zeros.
pub(super) fn format_time(time: Timestamp) -> String {
    let total = i128::from(time.seconds) * NANOS_PER_SECOND + i128::from(time.nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, nanos) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let text = format!("{sign}{whole}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64, nanos: u32) -> Timestamp {
        Timestamp { seconds, nanos }
    }

    #[test]
    fn case_42_times() {
        for (text, expected) in [
            ("0", time(0, 0)),
            ("1.5", time(1, 500_000_000)),
            ("-1.5", time(-2, 500_000_000)),
            ("-0.000000001", time(-1, 999_999_999)),
            ("1700000000.123456789", time(1_700_000_000, 123_456_789)),
            ("9223372036854775807", time(i64::MAX, 0)),
            ("-9223372036854775807.999999999", time(i64::MIN, 1)),
            ("-9223372036854775808", time(i64::MIN, 0)),
        ] {
            assert_eq!(parse_time(text.as_bytes()).expect(text), expected, "{text}");
            assert_eq!(format_time(expected), text);
        }
        for (text, expected) in [
            ("1.", time(1, 0)),
            ("001.50", time(1, 500_000_000)),
            ("1.9999999999", time(1, 999_999_999)),
            ("-0", time(0, 0)),
            ("99999999999999999999999", time(i64::MAX, 0)),
            ("-99999999999999999999999.5", time(i64::MIN, 500_000_000)),
        ] {
            assert_eq!(parse_time(text.as_bytes()).expect(text), expected, "{text}");
        }
        for text in ["NaN", "inf", "1e9", "", "-", ".5", "+1", "1.2.3", "1,5", " 1", "0x10"] {
            assert_eq!(parse_time(text.as_bytes()).unwrap_err().kind(), ErrorKind::DataLoss, "{text}");
        }
    }

    #[test]
    fn records_count_their_own_digits() {
        for value_length in 0..1200 {
            let mut records = Vec::new();
            push_record(&mut records, b"k", &vec![b'\n'; value_length]);
            let (key, value) = split_record(&mut &records[..]).expect("one record");
            assert_eq!((key, value.len()), (&b"k"[..], value_length));
            assert!(records.starts_with(format!("{} ", records.len()).as_bytes()));
        }
    }

    #[test]
    fn malformed_records() {
        for body in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"6 a=b\nx",
            b"6 a=bx",
            b"4 ab\n",
            b"5 =b\n",
            b"1 a=b\n",
            b"2 \n",
            b"0 a=b\n",
            b"a=b\n",
            b"-6 a=b\n",
            b"+6 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"7 a\0=b\n",
            b"\0\0\0\0",
            b"12 size=0x1\n",
            b"12 size=-1x\n",
            b"16 SCHILY.xattr.=\n",
        ] {
            let error = Pax::parse(body, &Limits::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DataLoss, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn case_38_xattrs() {
        let mut body = Vec::new();
        push_record(&mut body, b"LIBARCHIVE.xattr.user.both", b"bGlicw");
        push_record(&mut body, b"SCHILY.xattr.user.both", b"schily");
        push_record(&mut body, b"LIBARCHIVE.xattr.user.both", b"bGlicw==");
        push_record(&mut body, b"SCHILY.xattr.user.bytes", b"a\n\0=b\n");
        push_record(&mut body, b"SCHILY.xattr.user.empty", b"");
        push_record(&mut body, b"SCHILY.acl.access", b"user::rwx");
        push_record(&mut body, b"path", b"taken back");
        push_record(&mut body, b"path", b"");
        push_xattr(&mut body, b"user.a=b%\xff", b"\0\xff");
        let pax = Pax::parse(&body, &Limits::default()).expect("well-formed");
        let expected: Xattrs = [
            (&b"user.both"[..], &b"schily"[..]),
            (b"user.bytes", b"a\n\0=b\n"),
            (b"user.empty", b""),
            (b"user.a=b%\xff", b"\0\xff"),
        ]
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .into();
        assert_eq!(pax.xattrs, expected);
        assert_eq!(pax.path, None);
    }

    #[test]
    fn xattr_limit() {
        let mut body = Vec::new();
        push_record(&mut body, b"SCHILY.xattr.user.a", &[0; 90]);
        let limits = Limits { xattr_bytes: 95, ..Limits::default() };
        assert_eq!(Pax::parse(&body, &limits).unwrap_err().kind(), ErrorKind::ResourceExhausted);
    }
}
