#!/usr/bin/env python3
"""Test vectors of encryption, computed by docs/format.md alone: prints what is kept in vectors.json.

    venv/bin/python vectors.py > vectors.json

The libraries are those of recover.py. The Rust side compares itself with the same file.
"""

import json

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from recover import ALPHABET, Keys, derive, frame, keyed, record, unwrap, wrapping_key, x25519, x25519_public


def key_text(tag, key):
    number = int.from_bytes(key + derive("leeward v1 key text checksum", tag.encode(), key)[:3], "big")
    digits = "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(56)))
    return "-".join([tag] + [digits[at:at + 4] for at in range(0, 56, 4)])


def sealed_frame(kind, salt, nonce, key, content):
    header = b"LWFR" + bytes([0, kind, kind, 0])
    header += len(content).to_bytes(4, "little") + (len(content) + 60).to_bytes(4, "little")
    return header + salt + nonce + AESGCM(key).encrypt(nonce, content, header)


def sealed_record(kind, object_key, salt, text, keys):
    cipher, added = (2, 16) if kind == 2 else (3, 32)
    header = b"LEEWARDR" + bytes([1, 0, kind, cipher]) + (len(text) + added).to_bytes(4, "little") + salt
    if kind == 2:
        payload = AESGCM(keys.manifest_key(salt)).encrypt(bytes(12), text, header)
    else:
        payload = text + keys.proof(object_key, header + text)
    return header + payload + derive("leeward v1 stored record", header, payload)


def wrapped(slot, key, nonce, bundle):
    kind = {"full": 1, "write-only": 2}[slot["access"]]
    binding = bytes([kind]) + bytes.fromhex(slot["repository_id"]) + bytes.fromhex(slot["id"])
    return dict(slot, wrapped=(nonce + AESGCM(key).encrypt(nonce, bundle, binding)).hex())


def main():
    root = bytes(range(32))
    keys = Keys(root=root)
    bundle = keys.chunk + keys.node + keys.snapshot + keys.metadata + keys.content
    passing = bytes([1] * 32)
    passing_public = x25519_public(passing)
    agreed = derive("leeward v1 chunk frame key", x25519(passing, keys.content), passing_public, keys.content)
    nonce, salt = bytes([2] * 12), bytes([3] * 32)
    content = b"content of a frame, which is not worth compressing"
    names_id = derive("leeward v1 identity of name keys", keys.chunk, keys.node, keys.snapshot)
    cipher_id = derive("leeward v1 identity of cipher keys", keys.metadata, keys.content)
    slot = {
        "key_version": 1,
        "id": "0b" * 16,
        "repository_id": "0a" * 16,
        "name": "vector",
        "created": "2026-11-21T10:00:00Z",
        "access": "full",
    }
    recipient = bytes([4] * 32)
    by_passphrase = {"kind": "passphrase", "memory_kib": 64, "passes": 2, "lanes": 2, "salt": "06" * 16}
    by_key = {"kind": "x25519", "public": x25519_public(recipient).hex(), "passing": passing_public.hex()}
    slots = [
        wrapped(dict(slot, recipient=by_passphrase), wrapping_key(by_passphrase, None, b"open sesame"), nonce, root),
        wrapped(
            dict(slot, recipient=by_key, access="write-only"), wrapping_key(by_key, recipient, None), nonce, bundle
        ),
    ]
    vectors = {
        "root": root.hex(),
        "chunk_name": keyed(keys.chunk, content).hex(),
        "node_name": keyed(keys.node, content).hex(),
        "snapshot_name": keyed(keys.snapshot, content).hex(),
        "metadata_secret": keys.metadata.hex(),
        "content_private": keys.private.hex(),
        "content_public": keys.content.hex(),
        "fingerprint": derive("leeward v1 repository fingerprint", names_id, cipher_id).hex(),
        "content": content.hex(),
        "passing_private": passing.hex(),
        "nonce": nonce.hex(),
        "salt": salt.hex(),
        "chunk_frame": sealed_frame(1, passing_public, nonce, agreed, content).hex(),
        "node_frame": sealed_frame(2, salt, nonce, keys.node_frame_key(salt), content).hex(),
        "record_text": b'{"a":1}'.hex(),
        "record_salt": ("05" * 24),
        "manifest_record": sealed_record(2, "snapshots/a", bytes([5] * 24), b'{"a":1}', keys).hex(),
        "ref_record": sealed_record(3, "refs/a", bytes(24), b'{"a":1}', keys).hex(),
        "passphrase": "open sesame",
        "recipient_private": recipient.hex(),
        "public_text": key_text("LWPK1", x25519_public(recipient)),
        "secret_text": key_text("LWSK1", recipient),
        "slots": slots,
    }
    # Each opens again.
    assert frame(1, bytes.fromhex(vectors["chunk_frame"]), keys) == content
    assert frame(2, bytes.fromhex(vectors["node_frame"]), keys) == content
    assert record(2, "snapshots/a", bytes.fromhex(vectors["manifest_record"]), keys) == b'{"a":1}'
    assert record(3, "refs/a", bytes.fromhex(vectors["ref_record"]), keys) == b'{"a":1}'
    assert unwrap(slots[0], wrapping_key(by_passphrase, None, b"open sesame")).private == keys.private
    assert unwrap(slots[1], wrapping_key(by_key, recipient, None)).metadata == keys.metadata
    print(json.dumps(vectors, indent=1))


if __name__ == "__main__":
    main()
