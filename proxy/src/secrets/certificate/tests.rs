use std::path::Path;

use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PKCS_RSA_SHA256, RsaKeySize, SigningKey as _,
};
use x509_parser::asn1_rs::{Any, Sequence};

use super::*;
use crate::secrets::Secrets;

/// A certificate and its key, as PEM.
fn pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["agent.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn files() -> CertificateFiles {
    CertificateFiles { certificate: "crt".to_owned(), key: "key".to_owned() }
}

fn write(folder: &Path, certificate: &str, key: &str) {
    std::fs::write(folder.join("crt"), certificate).unwrap();
    std::fs::write(folder.join("key"), key).unwrap();
}

/// Whether a look gives a pair, and which reading of it.
fn read(secrets: &Secrets, now: Instant) -> Result<u64, SecretError> {
    secrets.certificate(&files(), now).map(|pair| pair.generation())
}

#[test]
fn p_f21_only_a_certificate_with_its_own_key_is_a_pair() {
    let ((certificate, key), (stranger, other)) = (pair(), pair());
    let body = |pem: &str| pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let long = certificate.repeat(CERTIFICATE_CHAIN_MAX);
    let pkcs1 = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let cases: [(&str, &str, Result<(), SecretError>); 18] = [
        (&certificate, &key, Ok(())),
        (&format!("a word before\n{certificate}{stranger}"), &format!("a word before\n{key}"), Ok(())),
        (&long, &key, Ok(())),
        (&certificate.replace('\n', "\r\n"), &key.replace('\n', "\r\n"), Ok(())),
        (&format!("{long}{certificate}"), &key, Err(SecretError::ChainTooLong)),
        (&format!("{stranger}{certificate}"), &key, Err(SecretError::Mismatched)),
        (&certificate, &other, Err(SecretError::Mismatched)),
        (&certificate, &format!("{key}{other}"), Err(SecretError::SeveralPrivateKeys)),
        (&certificate, &certificate, Err(SecretError::NoPrivateKey)),
        (&certificate, &format!("{certificate}{key}"), Ok(())),
        (&key, &key, Err(SecretError::PrivateKeyShown)),
        (&format!("{certificate}{key}"), &key, Err(SecretError::PrivateKeyShown)),
        ("", &key, Err(SecretError::NoCertificate)),
        (&certificate, "", Err(SecretError::NoPrivateKey)),
        (
            &certificate,
            &key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE"),
            Err(SecretError::PrivateKeyEncrypted),
        ),
        (&certificate, pkcs1, Err(SecretError::PrivateKeyEncrypted)),
        (&certificate, &key.replacen(&body(&key)[..8], "AAAAAAAA", 1), Err(SecretError::NoPrivateKey)),
        (
            &certificate.replacen(&body(&certificate)[..8], "AAAAAAAA", 1),
            &key,
            Err(SecretError::NoCertificate),
        ),
    ];
    for (number, (certificate, key, wanted)) in cases.into_iter().enumerate() {
        let read = ClientCertificate::parse(certificate.as_bytes(), key.as_bytes());
        assert_eq!(read.map(|_| ()), wanted, "{number}");
    }
    let folder = tempfile::tempdir().unwrap();
    let padded = format!("{key}{}", "\n".repeat(usize::try_from(CERTIFICATE_BYTES_MAX).unwrap() - key.len()));
    for (key, wanted) in [(padded.clone(), Ok(())), (padded + "\n", Err(SecretError::TooLarge))] {
        write(folder.path(), &certificate, &key);
        let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
        assert_eq!(read(&secrets, Instant::now()).map(|_| ()), wanted);
    }
}

#[test]
fn the_bounds_of_a_pair_are_those_that_its_errors_name() {
    let kib = format!("{} KiB", CERTIFICATE_BYTES_MAX / 1024);
    assert!(SecretError::TooLarge.to_string().contains(&kib));
    let behind = format!("more than {} behind it", CERTIFICATE_CHAIN_MAX - 1);
    assert!(SecretError::ChainTooLong.to_string().contains(&behind));
}

/// A private key as it is within PKCS #8: in PKCS #1 or SEC 1.
fn bare(key: &KeyPair) -> Vec<u8> {
    let wrapped = key.serialize_der();
    let (_, whole) = Sequence::from_der(&wrapped).unwrap();
    let (rest, _version) = Any::from_der(&whole.content).unwrap();
    let (rest, _algorithm) = Any::from_der(rest).unwrap();
    Any::from_der(rest).unwrap().1.data.to_vec()
}

/// A key of SEC 1 with its curve in it, as openssl writes it.
fn with_curve(sec1: &[u8], curve: &[u8]) -> Vec<u8> {
    let (_, whole) = Sequence::from_der(sec1).unwrap();
    let (rest, _version) = Any::from_der(&whole.content).unwrap();
    let (public, _key) = Any::from_der(rest).unwrap();
    let before = &whole.content[..whole.content.len() - public.len()];
    der(0x30, &[before, &der(0xa0, curve), public].concat())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn each_kind_of_key_that_is_common_is_read_in_each_format_that_is() {
    const P256: [u8; 10] = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let [p256, p384, ed25519] = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519]
        .map(|algorithm| KeyPair::generate_for(algorithm).unwrap());
    let sec1 = pem("EC PRIVATE KEY", &with_curve(&bare(&p256), &P256));
    let cases = [
        (&rsa, rsa.serialize_pem()),
        (&p256, p256.serialize_pem()),
        (&p384, p384.serialize_pem()),
        (&ed25519, ed25519.serialize_pem()),
        (&rsa, pem("RSA PRIVATE KEY", &bare(&rsa))),
        (&p256, pem("EC PRIVATE KEY", &bare(&p256))),
        (&p256, sec1.clone()),
        (&p256, pem("EC PARAMETERS", &P256) + &sec1),
    ];
    let (stranger, _) = pair();
    for (number, (key, text)) in cases.iter().enumerate() {
        let certificate = CertificateParams::default().self_signed(key).unwrap().pem();
        let read =
            |certificate: &str| ClientCertificate::parse(certificate.as_bytes(), text.as_bytes()).map(|_| ());
        assert_eq!(read(&certificate), Ok(()), "{number}");
        assert_eq!(read(&stranger), Err(SecretError::Mismatched), "{number}");
    }
    // X25519 agrees on keys and signs nothing.
    let x25519 =
        [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20][..], &[7; 32]].concat();
    let read = ClientCertificate::parse(stranger.as_bytes(), pem("PRIVATE KEY", &x25519).as_bytes());
    assert_eq!(read.map(|_| ()), Err(SecretError::PrivateKeyUnsupported));
}

/// DER of one value: its tag, its length and what it holds.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    // The shortest form, of three.
    let length = match (high, low) {
        (0, 0..0x80) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &length[..], content].concat()
}

/// The certificate as one of X.509 version 1, which has neither a version nor extensions. Its key signs it.
fn of_version_1(certificate: &str, key: &KeyPair) -> String {
    const SEQUENCE: u8 = 0x30;
    const ECDSA_WITH_SHA256: [u8; 12] = [SEQUENCE, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let version_3 = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let (_, read) = X509Certificate::from_der(&version_3).unwrap();
    let year = |year: &str| der(0x17, format!("{year}0101000000Z").as_bytes());
    let fields = [
        der(0x02, &[1]),
        ECDSA_WITH_SHA256.to_vec(),
        read.issuer().as_raw().to_vec(),
        der(SEQUENCE, &[year("26"), year("36")].concat()),
        read.subject().as_raw().to_vec(),
        read.public_key().raw.to_vec(),
    ];
    let signed = der(SEQUENCE, &fields.concat());
    let signature = der(0x03, &[&[0], &key.sign(&signed).unwrap()[..]].concat());
    let whole = der(SEQUENCE, &[&signed[..], &ECDSA_WITH_SHA256, &signature].concat());
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(whole))
}

#[test]
fn p_f21_a_certificate_of_the_first_version_is_a_pair_with_its_own_key_and_no_other() {
    let key = KeyPair::generate().unwrap();
    let certificate = of_version_1(&CertificateParams::default().self_signed(&key).unwrap().pem(), &key);
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let (_, read) = X509Certificate::from_der(&der).unwrap();
    assert_eq!((read.version().0, read.extensions().len()), (0, 0), "as openssl x509 -req makes it");
    ClientCertificate::parse(certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let (_, other) = pair();
    let read = ClientCertificate::parse(certificate.as_bytes(), other.as_bytes());
    assert_eq!(read.map(|_| ()), Err(SecretError::Mismatched));
}

#[test]
fn p_f21_a_pair_that_could_not_be_read_for_a_moment_is_read_at_the_next_look_though_it_is_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = pair();
    // A folder has a stamp and cannot be read, as a file cannot be opened when descriptors have run out.
    std::fs::create_dir(folder.path().join("crt")).unwrap();
    std::fs::write(folder.path().join("key"), &key).unwrap();
    let of = Pair::of(folder.path(), &files());
    let start = Instant::now();
    let mut known = Known { looked: start, stamps: None, pair: Err(SecretError::Mismatched) };
    known.look(&of, start);
    assert!(of.stamps().is_some());
    assert_eq!(known.pair.as_ref().err(), Some(&SecretError::CertificateMissing));
    assert!(known.stamps.is_none(), "it is looked into again, whatever its stamps");
    std::fs::remove_dir(folder.path().join("crt")).unwrap();
    std::fs::write(folder.path().join("crt"), &certificate).unwrap();
    known.look(&of, start);
    assert!(known.pair.is_ok() && known.stamps.is_some());
}

/// Puts another pair in the place of one, as the kubelet does: all of it at once, in files of its own.
fn swap(folder: &Path, certificate: &str, key: &str) {
    for (name, text) in [("crt", certificate), ("key", key)] {
        std::fs::write(folder.join("next"), text).unwrap();
        std::fs::rename(folder.join("next"), folder.join(name)).unwrap();
    }
}

#[test]
fn p_f21_a_pair_that_is_swapped_while_it_is_read_is_read_once_more_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let ((old, old_key), (new, new_key)) = (pair(), pair());
    let of = Pair::of(folder.path(), &files());
    let start = Instant::now();
    for is_swapped in [true, false] {
        write(folder.path(), &old, &old_key);
        let mut known = Known { looked: start, stamps: None, pair: Err(SecretError::PairMissing) };
        let mut reads = 0;
        known.look_by(&of, start, |pair| {
            reads += 1;
            if reads == 2 {
                return pair.read();
            }
            if is_swapped {
                swap(folder.path(), &new, &new_key);
            }
            ClientCertificate::parse(old.as_bytes(), new_key.as_bytes())
        });
        let (wanted, wanted_reads) = if is_swapped { (Ok(()), 2) } else { (Err(SecretError::Mismatched), 1) };
        assert_eq!((known.pair.map(|_| ()), reads), (wanted, wanted_reads), "{is_swapped}");
    }
}

#[test]
fn p_f21_the_private_key_of_a_pair_that_no_policy_names_any_more_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = pair();
    write(folder.path(), &certificate, &key);
    let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
    let held = || Arc::downgrade(&secrets.certificate(&files(), Instant::now()).unwrap().pair);
    let policy = |certificates: &str| {
        let text = format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 1, rules: []{certificates}}}"
        );
        agentsandbox_policy::Policy::from_yaml(&text).unwrap()
    };
    let key = held();
    secrets.keep_certificates_of(&policy(
        ", clientCertificates: [{name: mtls, certificateFile: crt, keyFile: key, scopes: [{host: a.test, ports: [443]}]}]",
    ));
    assert!(key.upgrade().is_some(), "it is named");
    secrets.keep_certificates_of(&policy(""));
    assert!(key.upgrade().is_none());
    assert!(held().upgrade().is_some(), "it is read again once it is asked for");
}

#[test]
fn p_f21_a_pair_that_is_half_changed_denies_until_the_other_half_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let ((old, old_key), (new, new_key)) = (pair(), pair());
    write(folder.path(), &old, &old_key);
    let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
    let start = Instant::now();
    let look = |number: u32| read(&secrets, start + SECRET_STAT_INTERVAL * number);
    let first = look(0).unwrap();
    assert_eq!(look(1), Ok(first), "an unchanged pair is the same reading");
    std::fs::write(at("crt"), &new).unwrap();
    assert_eq!(look(2), Err(SecretError::Mismatched));
    assert_eq!(look(3), Err(SecretError::Mismatched), "however often it is looked at");
    std::fs::write(at("key"), &new_key).unwrap();
    let second = look(4).unwrap();
    assert!(second > first, "another reading");
    // The key first.
    std::fs::write(at("key"), &old_key).unwrap();
    assert_eq!(look(5), Err(SecretError::Mismatched));
    std::fs::write(at("crt"), &old).unwrap();
    assert!(look(6).unwrap() > second);
    for gone in ["key", "crt"] {
        write(folder.path(), &new, &new_key);
        assert!(look(if gone == "key" { 7 } else { 9 }).is_ok());
        std::fs::remove_file(at(gone)).unwrap();
        let missing =
            if gone == "key" { SecretError::PrivateKeyMissing } else { SecretError::CertificateMissing };
        assert_eq!(look(if gone == "key" { 8 } else { 10 }), Err(missing), "{gone}");
    }
    std::fs::remove_file(at("key")).unwrap();
    assert_eq!(look(11), Err(SecretError::PairMissing));
}

#[test]
fn p_f21_a_certificate_that_is_pointed_at_other_files_never_shows_the_ones_before() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = pair();
    write(folder.path(), &certificate, &key);
    let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
    let now = Instant::now();
    assert!(read(&secrets, now).is_ok());
    let others = [
        (("crt", "key-2"), SecretError::PrivateKeyMissing),
        (("crt-2", "key"), SecretError::CertificateMissing),
        (("crt-2", "key-2"), SecretError::PairMissing),
    ];
    for (files, error) in others {
        let files = CertificateFiles { certificate: files.0.to_owned(), key: files.1.to_owned() };
        assert_eq!(secrets.certificate(&files, now).err(), Some(error), "{files:?}");
    }
}
