#!/usr/bin/env python3
"""Reads a Leeward repository in a directory, by docs/format.md alone.

Lists images, and restores a snapshot to a file. Shares no code with Leeward: it shows that the document is enough, and it
is what is left when the program is not.

    python3 -m venv venv && venv/bin/pip install blake3 zstandard cryptography argon2-cffi
    venv/bin/python recover.py REPOSITORY                       # list
    venv/bin/python recover.py REPOSITORY IMAGE[@DIGEST] FILE   # restore

An encrypted repository needs `--key FILE` (a key file or recovery key) or `--passphrase-file FILE`.
"""

import argparse
import hmac
import json
import os
import struct
import sys

from blake3 import blake3
import zstandard

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
FRAME_CONTENT_MAX = 16 << 20


class Damaged(Exception):
    """A stored object is not what the format says."""


def need(condition, what):
    if not condition:
        raise Damaged(what)


def derive(context, *parts):
    return blake3(b"".join(parts), derive_key_context=context).digest()


def keyed(key, data):
    return blake3(data, key=key).digest()


# ---- keys


def aes_open(key, nonce, sealed, header):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(nonce, sealed, header)
    except InvalidTag:
        raise Damaged("it does not decrypt") from None


def x25519(private, public):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def x25519_public(private):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def read_key_text(text, tag="LWSK1"):
    """The 32 bytes in the text of a key: base 32 with 3 bytes of checksum."""
    lines = [line for line in text.splitlines() if not line.strip().startswith("#")]
    digits = "".join("".join(lines).split()).replace("-", "").upper()
    need(digits.startswith(tag), f"the key does not begin with {tag}")
    digits = digits[len(tag):].replace("O", "0").replace("I", "1").replace("L", "1")
    need(len(digits) == 56 and all(digit in ALPHABET for digit in digits), "the key is mistyped")
    number = 0
    for digit in digits:
        number = number << 5 | ALPHABET.index(digit)
    payload = number.to_bytes(35, "big")
    checksum = derive("leeward v1 key text checksum", tag.encode(), payload[:32])[:3]
    need(payload[32:] == checksum, "the key is mistyped: its checksum is wrong")
    return payload[:32]


class Keys:
    """The keys of a repository; without a root secret and a bundle those of one that is not encrypted."""

    def __init__(self, root=None, bundle=None):
        self.metadata = self.private = self.content = None
        if bundle:
            parts = [bundle[at:at + 32] for at in range(0, 160, 32)]
            self.chunk, self.node, self.snapshot, self.metadata, self.content = parts
            return
        secret = root or bytes(32)
        self.chunk = derive("leeward v1 chunk id key", secret)
        self.node = derive("leeward v1 tree node id key", secret)
        self.snapshot = derive("leeward v1 snapshot id key", secret)
        if root:
            self.metadata = derive("leeward v1 metadata secret", root)
            self.private = derive("leeward v1 content private key", root)
            self.content = x25519_public(self.private)

    @property
    def encrypted(self):
        return self.metadata is not None

    def chunk_frame_key(self, passing):
        need(self.private, "this key cannot read chunks")
        return derive("leeward v1 chunk frame key", x25519(self.private, passing), passing, self.content)

    def node_frame_key(self, salt):
        return derive("leeward v1 node frame key", self.metadata, salt)

    def manifest_key(self, salt):
        return derive("leeward v1 manifest key", self.metadata, salt)

    def proof(self, object_key, data):
        name = object_key.encode()
        key = derive("leeward v1 record authenticity key", self.metadata)
        return keyed(key, struct.pack("<Q", len(name)) + name + data)


def wrapping_key(recipient, private, passphrase):
    """The key under which a bundle is wrapped, if this opens it."""
    if recipient["kind"] == "passphrase" and passphrase is not None:
        from argon2.low_level import Type, hash_secret_raw

        memory, passes, lanes = recipient["memory_kib"], recipient["passes"], recipient["lanes"]
        need(memory <= 1 << 20 and passes <= 16 and lanes <= 16 and memory * passes <= 4 << 20, "it asks for too much")
        stretched = hash_secret_raw(
            passphrase, bytes.fromhex(recipient["salt"]), passes, memory, lanes, 32, Type.ID, 0x13
        )
        return derive("leeward v1 wrapping key of a passphrase", stretched)
    if recipient["kind"] == "x25519" and private is not None:
        public = x25519_public(private)
        if recipient["public"] == public.hex():
            passing = bytes.fromhex(recipient["passing"])
            return derive("leeward v1 wrapping key of a public key", x25519(private, passing), passing, public)
    return None


def unwrap(slot, key):
    kind = {"full": 1, "write-only": 2}[slot["access"]]
    binding = bytes([kind]) + bytes.fromhex(slot["repository_id"]) + bytes.fromhex(slot["id"])
    wrapped = bytes.fromhex(slot["wrapped"])
    bundle = aes_open(key, wrapped[:12], wrapped[12:], binding)
    return Keys(root=bundle) if kind == 1 else Keys(bundle=bundle)


# ---- stored forms


def record(kind, object_key, data, keys):
    """The text of a record. `keys` may be None: then it is taken by the word of the store."""
    need(len(data) >= 72 and data[:8] == b"LEEWARDR", "it is no record")
    need(data[-32:] == derive("leeward v1 stored record", data[:-32]), "its digest is wrong")
    version, found, cipher, length = struct.unpack_from("<HBBI", data, 8)
    header, payload = data[:40], data[40:-32]
    need((version, found, length) == (1, kind, len(payload)), "its header is wrong")
    if keys is not None:
        expected = (2 if kind == 2 else 3) if keys.encrypted else 0
        need(cipher == expected, f"it has cipher {cipher}, not {expected}")
    if cipher == 2:
        return aes_open(keys.manifest_key(header[16:40]), bytes(12), payload, header)
    if cipher == 3:
        text, proof = payload[:-32], payload[-32:]
        if keys is not None:
            need(hmac.compare_digest(proof, keys.proof(object_key, header + text)), "it is not authentic")
        return text
    return payload


def frame(kind, data, keys):
    """The content of a stored frame."""
    need(len(data) >= 16 and data[:4] == b"LWFR", "there is no frame")
    encoding, cipher, found, zero, content_length, length = struct.unpack_from("<BBBBII", data, 4)
    need(found == kind and length == len(data) - 16 and content_length <= FRAME_CONTENT_MAX, "its header is wrong")
    need(cipher == (kind if keys.encrypted else 0), f"a frame has cipher {cipher}")
    payload = data[16:]
    if cipher:
        key = keys.chunk_frame_key(payload[:32]) if kind == 1 else keys.node_frame_key(payload[:32])
        payload = aes_open(key, payload[32:44], payload[44:], data[:16])
    if encoding == 1:
        payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=content_length)
    need(encoding in (0, 1) and len(payload) == content_length, "a frame does not decode")
    return payload


def pack_directory(name, data, object_key):
    """Yields offset, length and names of each frame of a pack, which is compared with its name."""
    footer = data[-64:]
    need(data[:8] == b"LEEWARDP" and footer[:8] == b"LEEWARDD", f"{object_key} is no pack")
    offset, length, count = struct.unpack_from("<QII", footer, 8)
    directory = data[offset:offset + length]
    found = derive("leeward v1 pack header and directory", data[:64], directory)
    need(found.hex() == name and footer[32:] == found, f"{object_key} does not match its name")
    at, position = 0, 64
    while at < len(directory):
        stored, blobs = struct.unpack_from("<II", directory, at)
        digest, at = directory[at + 8:at + 40], at + 40
        names = [directory[at + 32 * i:at + 32 * i + 32] for i in range(blobs)]
        need(derive("leeward v1 stored frame", data[position:position + stored]) == digest, "a frame is damaged")
        yield position, stored, names
        at, position = at + 32 * blobs, position + stored


def node_length(data, fanout_bits):
    bitmap = data[4:4 + (1 << fanout_bits) // 8]
    return 4 + len(bitmap) + 32 * sum(bin(byte).count("1") for byte in bitmap)


class Repository:
    def __init__(self, path, private=None, passphrase=None):
        self.path = path
        config = json.loads(record(1, "config", self.read("config"), None))
        unknown = set(config["features_required"]) - {"encryption-1"}
        need(config["format_version"] == 1 and not unknown, f"it needs {unknown or 'another version'}")
        self.keys = Keys()
        if "encryption-1" in config["features_required"]:
            self.keys = self.unlock(config["repository_id"], private, passphrase)
        # Until now it was the store's word.
        self.config = json.loads(record(1, "config", self.read("config"), self.keys))
        self.chunk_bytes = 1 << self.config["chunk_bits"]
        self.places = None

    def read(self, key):
        with open(os.path.join(self.path, key), "rb") as file:
            return file.read()

    def names(self, prefix):
        return sorted(os.listdir(os.path.join(self.path, prefix)))

    def unlock(self, repository_id, private, passphrase):
        for name in self.names("keys"):
            slot = json.loads(record(7, f"keys/{name}", self.read(f"keys/{name}"), None))
            if slot["repository_id"] != repository_id or slot["id"] != name:
                continue
            key = wrapping_key(slot["recipient"], private, passphrase)
            try:
                if key:
                    return unwrap(slot, key)
            except Damaged:
                pass
        raise Damaged("nothing that was given opens the repository")

    def images(self):
        for name in self.names("refs"):
            key = f"refs/{name}"
            yield json.loads(record(3, key, self.read(key), self.keys))

    def manifest(self, name):
        text = record(2, f"snapshots/{name}", self.read(f"snapshots/{name}"), self.keys)
        need(keyed(self.keys.snapshot, text).hex() == name, "a manifest does not match its name")
        return json.loads(text)

    def load_places(self):
        """Where each blob lies, from the packs alone: the index only saves time."""
        self.places = {}
        for name in self.names("packs"):
            data = self.read(f"packs/{name}")
            for offset, length, blobs in pack_directory(name, data, f"packs/{name}"):
                content, at = None, 0
                for blob in blobs:
                    self.places[blob] = (name, offset, length, at)
                    if data[10] == 1:
                        at += self.chunk_bytes
                    else:
                        content = content or frame(2, data[offset:offset + length], self.keys)
                        at += node_length(content[at:], self.config["fanout_bits"])

    def blob(self, kind, name, cache={}):
        if self.places is None:
            self.load_places()
        need(name in self.places, f"a blob is missing: {name.hex()}")
        pack, offset, length, at = self.places[name]
        if (pack, offset) not in cache:
            with open(os.path.join(self.path, "packs", pack), "rb") as file:
                file.seek(offset)
                content = frame(kind, file.read(length), self.keys)
            cache.clear()
            cache[pack, offset] = content
        content = cache[pack, offset]
        size = self.chunk_bytes if kind == 1 else node_length(content[at:], self.config["fanout_bits"])
        data = content[at:at + size]
        key = self.keys.chunk if kind == 1 else self.keys.node
        need(keyed(key, data) == name, f"a blob does not match its name: {name.hex()}")
        return data

    def chunks(self, node, level, first=0):
        """Yields number and name of each chunk under a node."""
        data = self.blob(2, node)
        fanout = 1 << data[2]
        need(data[0] == 1 and data[1] == level and data[3] == 0, "a node is not what it should be")
        at = 4 + fanout // 8
        for child in range(fanout):
            if not data[4 + child // 8] >> child % 8 & 1:
                continue
            number, name = first * fanout + child, data[at:at + 32]
            at += 32
            if level:
                yield from self.chunks(name, level - 1, number)
            else:
                yield number, name

    def restore(self, manifest, target):
        with open(target, "wb") as file:
            if manifest["root"]:
                for number, name in self.chunks(bytes.fromhex(manifest["root"]), manifest["root_level"]):
                    file.seek(number * self.chunk_bytes)
                    file.write(self.blob(1, name))
            file.truncate(manifest["virtual_size"])


def main():
    parser = argparse.ArgumentParser(description="Read a Leeward repository in a directory, by its format alone")
    parser.add_argument("repository")
    parser.add_argument("snapshot", nargs="?", help="IMAGE or IMAGE@DIGEST; the image's last snapshot where no digest is given")
    parser.add_argument("target", nargs="?")
    parser.add_argument("--key", help="a key file or recovery key")
    parser.add_argument("--passphrase-file")
    arguments = parser.parse_args()
    private = passphrase = None
    if arguments.key:
        with open(arguments.key, encoding="utf-8") as file:
            private = read_key_text(file.read())
    if arguments.passphrase_file:
        with open(arguments.passphrase_file, encoding="utf-8") as file:
            passphrase = file.readline().rstrip("\r\n").encode()
    repository = Repository(arguments.repository, private, passphrase)
    if not arguments.snapshot:
        for image in repository.images():
            for entry in image["snapshots"]:
                print(f"{image['image']}@{entry['id']} {entry['created']} {entry['virtual_size']}")
        return
    wanted, _, digest = arguments.snapshot.partition("@")
    found = [
        entry["id"]
        for image in repository.images()
        if image["image"] == wanted
        for entry in image["snapshots"]
        if entry["id"].startswith(digest)
    ]
    need(found and arguments.target, "there is no such snapshot, or no file was given")
    repository.restore(repository.manifest(found[-1]), arguments.target)


if __name__ == "__main__":
    try:
        main()
    except Damaged as error:
        sys.exit(f"recover: {error}")
