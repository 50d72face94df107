//! Reads protobuf without a schema, as far as looking up fields by their numbers needs it.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>. Kubernetes stores its own kinds so
//! (`k8s.io/apimachinery/pkg/runtime/generated.proto`), and their field numbers never change.

use std::collections::BTreeMap;

/// The bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no protobuf message")]
pub struct Malformed;

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed width; no field that is looked up has one.
    Fixed,
}

/// A message: its fields in the order in which they stand. Nothing but the outermost level is read before it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Message<'a>(Vec<(u64, Value<'a>)>);

impl<'a> Message<'a> {
    /// Reads the fields of one level.
    ///
    /// # Errors
    /// When a field does not end within the bytes, or has a wire type that proto3 does not have.
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = number(&mut bytes)?;
            let value = match tag & 7 {
                0 => Value::Number(number(&mut bytes)?),
                1 => take(&mut bytes, 8).map(|_| Value::Fixed)?,
                2 => {
                    let length = usize::try_from(number(&mut bytes)?).map_err(|_| Malformed)?;
                    Value::Bytes(take(&mut bytes, length)?)
                }
                5 => take(&mut bytes, 4).map(|_| Value::Fixed)?,
                _ => return Err(Malformed),
            };
            fields.push((tag >> 3, value));
        }
        Ok(Self(fields))
    }

    /// Every occurrence of a field of bytes, text or messages.
    pub fn each(&self, field: u64) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |(number, value)| match value {
            Value::Bytes(bytes) if *number == field => Some(*bytes),
            _ => None,
        })
    }

    /// The last occurrence of a field of bytes, which is the one that counts.
    #[must_use]
    pub fn bytes(&self, field: u64) -> Option<&'a [u8]> {
        self.each(field).last()
    }

    /// A field of text; empty if it is absent, as proto3 has it.
    #[must_use]
    pub fn text(&self, field: u64) -> String {
        String::from_utf8_lossy(self.bytes(field).unwrap_or_default()).into_owned()
    }

    /// A field of an integer or truth value.
    #[must_use]
    pub fn number(&self, field: u64) -> Option<u64> {
        let mut found = self.0.iter().filter_map(|(number, value)| match value {
            Value::Number(value) if *number == field => Some(*value),
            _ => None,
        });
        found.next_back()
    }

    /// A message within this one; without fields if it is absent.
    ///
    /// # Errors
    /// When it is there and is none.
    pub fn inner(&self, field: u64) -> Result<Self, Malformed> {
        Self::parse(self.bytes(field).unwrap_or_default())
    }

    /// Every message of a repeated field.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn all(&self, field: u64) -> Result<Vec<Self>, Malformed> {
        self.each(field).map(Self::parse).collect()
    }

    /// A map from text to bytes.
    ///
    /// # Errors
    /// When an entry is no message.
    pub fn map(&self, field: u64) -> Result<BTreeMap<String, Vec<u8>>, Malformed> {
        let entries = self.all(field)?;
        let pair = |entry: &Self| (entry.text(1), entry.bytes(2).unwrap_or_default().to_vec());
        Ok(entries.iter().map(pair).collect())
    }

    /// A map from text to text.
    ///
    /// # Errors
    /// When an entry is no message.
    pub fn text_map(&self, field: u64) -> Result<BTreeMap<String, String>, Malformed> {
        Ok(self.all(field)?.iter().map(|entry| (entry.text(1), entry.text(2))).collect())
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

/// A number of seven bits a byte, the least significant first.
fn number(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first().ok_or(Malformed)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
pub mod build {
    //! Writes messages, so that tests can say what etcd held.

    fn number(mut value: u64, bytes: &mut Vec<u8>) {
        while value > 0x7f {
            bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).unwrap());
    }

    /// A message that grows field by field.
    #[derive(Clone, Debug, Default)]
    pub struct Builder(Vec<u8>);

    impl Builder {
        pub fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
            number(field << 3 | 2, &mut self.0);
            number(u64::try_from(value.as_ref().len()).unwrap(), &mut self.0);
            self.0.extend_from_slice(value.as_ref());
            self
        }

        pub fn inner(self, field: u64, message: Self) -> Self {
            self.bytes(field, message.0)
        }

        pub fn number(mut self, field: u64, value: u64) -> Self {
            number(field << 3, &mut self.0);
            number(value, &mut self.0);
            self
        }

        pub fn done(self) -> Vec<u8> {
            self.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::build::Builder;
    use super::*;

    #[test]
    fn fields_are_found_by_number_and_the_last_one_counts() {
        let inner = Builder::default().bytes(1, "key").bytes(2, "value");
        let bytes =
            Builder::default().bytes(1, "first").number(7, 300).inner(11, inner).bytes(1, "last").done();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.text(1), "last");
        assert_eq!(message.each(1).count(), 2);
        assert_eq!(message.number(7), Some(300));
        assert_eq!(message.text_map(11).unwrap()["key"], "value");
        assert_eq!(message.text(5), "");
        assert_eq!(message.number(5), None);
    }

    #[test]
    fn what_ends_too_early_or_has_an_unknown_type_is_no_message() {
        let whole = Builder::default().bytes(1, "some text").done();
        for end in 1..whole.len() {
            assert_eq!(Message::parse(&whole[..end]).unwrap_err(), Malformed);
        }
        assert_eq!(Message::parse(&[0x0b]).unwrap_err(), Malformed, "a group");
        assert_eq!(Message::parse(&[0xff; 11]).unwrap_err(), Malformed, "a number without end");
    }
}
