-- A store of version 1, as Outcrop 1258caa wrote it: two of the six stacks of a demo run (containers demo-layers and demo-python-app of
-- node-1), without the inventories of their layers. Texts come from Debian and PyPI packages and from OSV records.
BEGIN TRANSACTION;
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations VALUES(1,'store','2026-11-29 13:49:08',1,X'743f1b4632d8e1f3594ada58fc5016b3d2330a6dfe7d600f0c44b9a1e90565204c8079f7e6d74d63512b1677f1d640f2',15245159);
CREATE TABLE layer (
    -- `diff:sha256:…` or `chain:sha256:…`
    id TEXT PRIMARY KEY,
    -- SHA-256 of the canonical encoding: two honest readers agree on it.
    digest BLOB NOT NULL,
    -- Bytes of the canonical encoding.
    size INTEGER NOT NULL,
    cataloguers INTEGER NOT NULL,
    -- Who read it, in which cage, and whether overlay's marks could be seen.
    node TEXT NOT NULL,
    cage TEXT NOT NULL,
    marks INTEGER NOT NULL,
    read_at INTEGER NOT NULL,
    -- The canonical encoding, compressed with zstd. Last, so that the rest of the row is read without it.
    inventory BLOB NOT NULL
) STRICT;
INSERT INTO layer VALUES('chain:sha256:c57fcec53b54416faf8b6e8091a1b5bbdbc161b2659b057abb9ba298afcceace',X'50438086ea4ed638fb4cc3abe3069cc833b553da90f66e418538c619314b481f',162825,1,'node-1','landlock+seccomp',1,1795961144,X'00');
INSERT INTO layer VALUES('diff:sha256:dce95aa74b1e3c42fedc71054530d81ba357a01e845f81183d2fc3790efabced',X'5fc564519c04831a8a6d4db31a9bfb2c9183b9b6f37290c3fb950fec36b5f621',112,1,'node-1','landlock+seccomp',1,1795961144,X'00');
INSERT INTO layer VALUES('diff:sha256:ee382b9fc9602d22f8c2b501b675d8e3b4dee6809e89e03edaddb798c55cc037',X'876ed2f09bf1d7a99cfea10a7026b90c73a1046c0cd3e11f629ac4be662486ca',113,1,'node-1','landlock+seccomp',1,1795961144,X'00');
INSERT INTO layer VALUES('diff:sha256:46f90cd29ddf66b56b6171e630efcde6005e86b89d0cfbbac356e8b68eb8a5ab',X'45cf321eeecb42c7efdd98ec37c3eb893aa6503c7b47d74f0a4195d69843957d',7112,1,'node-1','landlock+seccomp',1,1795961144,X'00');
INSERT INTO layer VALUES('diff:sha256:ca3d8ce6ea9d46ca6aa08d9d6efd04009d14a015a68506636271046b686ad21c',X'04d4f8b3e295382823d2f0c606732b8e9763e6ffd7335f47692e9179ec65042c',15438,1,'node-1','landlock+seccomp',1,1795961144,X'00');
INSERT INTO layer VALUES('diff:sha256:bb00814df0dfc4e43f091a0994c4575933484f6c5f6374f162bff29d4ab6aa77',X'2f5b6bb1ea0ce21eecf5ef3adec15cd0ca47380d18997872ff957c5cbb1d00bd',29938,1,'node-1','landlock+seccomp',1,1795961144,X'00');
INSERT INTO layer VALUES('diff:sha256:10d7886d05d1d0fb84eb4c31007a0a26af094fb3dc77ee5d1a9cd6b13e5b0752',X'7c2435858237e5815fe73965d76fa20392fca485a94194da5fd75f55354a8f84',186,1,'node-1','landlock+seccomp',1,1795961144,X'00');
INSERT INTO layer VALUES('diff:sha256:0206d48945c1d9666d4686eddde3049cbd921cb26a6d65387a52982a46a5ed91',X'2f9286187ec90ae08175802aec19f6f0fc68faffe60cce45d3627838441d68fa',238145,1,'node-1','landlock+seccomp',1,1795961144,X'00');
INSERT INTO layer VALUES('diff:sha256:83843151c13d6167c967aeffe6fb112d8ba89d27f521e9bfb683d50325ce8aa1',X'01b8d01e4db40af04febbc5207be36fdf35cafa03e8f9b20ccd8ddf177740472',100264,1,'node-1','landlock+seccomp',1,1795961144,X'00');
CREATE TABLE verification (
    layer TEXT NOT NULL REFERENCES layer ON DELETE CASCADE,
    node TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (layer, node)
) STRICT, WITHOUT ROWID;
CREATE TABLE distrusted (
    node TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE distribution (
    id INTEGER PRIMARY KEY,
    os TEXT NOT NULL,
    version TEXT NOT NULL,
    codename TEXT NOT NULL,
    name TEXT NOT NULL
) STRICT;
INSERT INTO distribution VALUES(1,'debian','12','bookworm','Debian GNU/Linux 12 (bookworm)');
CREATE TABLE package (
    id INTEGER PRIMARY KEY,
    -- As purl names it: deb, npm, maven, …
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The name without what stands before its last `:` or `/`: `log4j-core` of `org.apache.logging.log4j:log4j-core`.
    short TEXT NOT NULL,
    version TEXT NOT NULL,
    arch TEXT,
    source TEXT,
    source_version TEXT,
    vendor TEXT,
    module TEXT,
    -- Of an operating system's package.
    distribution INTEGER REFERENCES distribution,
    purl TEXT NOT NULL
) STRICT;
INSERT INTO package VALUES(1,'deb','adduser','adduser','3.134','all','adduser','3.134',NULL,NULL,1,'pkg:deb/debian/adduser@3.134?arch=all&distro=debian-12');
INSERT INTO package VALUES(2,'deb','apt','apt','2.6.2','amd64','apt','2.6.2',NULL,NULL,1,'pkg:deb/debian/apt@2.6.2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(3,'deb','base-files','base-files','12.4+deb12u15','amd64','base-files','12.4+deb12u15',NULL,NULL,1,'pkg:deb/debian/base-files@12.4%2Bdeb12u15?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(4,'deb','base-passwd','base-passwd','3.6.1','amd64','base-passwd','3.6.1',NULL,NULL,1,'pkg:deb/debian/base-passwd@3.6.1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(5,'deb','bash','bash','5.2.15-2+b13','amd64','bash','5.2.15-2',NULL,NULL,1,'pkg:deb/debian/bash@5.2.15-2%2Bb13?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(6,'deb','bsdutils','bsdutils','1:2.38.1-5+deb12u3','amd64','util-linux','2.38.1-5+deb12u3',NULL,NULL,1,'pkg:deb/debian/bsdutils@1:2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(7,'deb','coreutils','coreutils','9.1-1','amd64','coreutils','9.1-1',NULL,NULL,1,'pkg:deb/debian/coreutils@9.1-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(8,'deb','dash','dash','0.5.12-2','amd64','dash','0.5.12-2',NULL,NULL,1,'pkg:deb/debian/dash@0.5.12-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(9,'deb','debconf','debconf','1.5.82','all','debconf','1.5.82',NULL,NULL,1,'pkg:deb/debian/debconf@1.5.82?arch=all&distro=debian-12');
INSERT INTO package VALUES(10,'deb','debian-archive-keyring','debian-archive-keyring','2023.3+deb12u2','all','debian-archive-keyring','2023.3+deb12u2',NULL,NULL,1,'pkg:deb/debian/debian-archive-keyring@2023.3%2Bdeb12u2?arch=all&distro=debian-12');
INSERT INTO package VALUES(11,'deb','debianutils','debianutils','5.7-0.5~deb12u1','amd64','debianutils','5.7-0.5~deb12u1',NULL,NULL,1,'pkg:deb/debian/debianutils@5.7-0.5~deb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(12,'deb','diffutils','diffutils','1:3.8-4','amd64','diffutils','1:3.8-4',NULL,NULL,1,'pkg:deb/debian/diffutils@1:3.8-4?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(13,'deb','dpkg','dpkg','1.21.23','amd64','dpkg','1.21.23',NULL,NULL,1,'pkg:deb/debian/dpkg@1.21.23?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(14,'deb','e2fsprogs','e2fsprogs','1.47.0-2+b2','amd64','e2fsprogs','1.47.0-2',NULL,NULL,1,'pkg:deb/debian/e2fsprogs@1.47.0-2%2Bb2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(15,'deb','findutils','findutils','4.9.0-4','amd64','findutils','4.9.0-4',NULL,NULL,1,'pkg:deb/debian/findutils@4.9.0-4?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(16,'deb','gcc-12-base','gcc-12-base','12.2.0-14+deb12u1','amd64','gcc-12','12.2.0-14+deb12u1',NULL,NULL,1,'pkg:deb/debian/gcc-12-base@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(17,'deb','gpgv','gpgv','2.2.40-1.1+deb12u2','amd64','gnupg2','2.2.40-1.1+deb12u2',NULL,NULL,1,'pkg:deb/debian/gpgv@2.2.40-1.1%2Bdeb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(18,'deb','grep','grep','3.8-5','amd64','grep','3.8-5',NULL,NULL,1,'pkg:deb/debian/grep@3.8-5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(19,'deb','gzip','gzip','1.12-1','amd64','gzip','1.12-1',NULL,NULL,1,'pkg:deb/debian/gzip@1.12-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(20,'deb','hostname','hostname','3.23+nmu1','amd64','hostname','3.23+nmu1',NULL,NULL,1,'pkg:deb/debian/hostname@3.23%2Bnmu1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(21,'deb','init-system-helpers','init-system-helpers','1.65.2+deb12u1','all','init-system-helpers','1.65.2+deb12u1',NULL,NULL,1,'pkg:deb/debian/init-system-helpers@1.65.2%2Bdeb12u1?arch=all&distro=debian-12');
INSERT INTO package VALUES(22,'deb','libacl1','libacl1','2.3.1-3','amd64','acl','2.3.1-3',NULL,NULL,1,'pkg:deb/debian/libacl1@2.3.1-3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(23,'deb','libapt-pkg6.0','libapt-pkg6.0','2.6.2','amd64','apt','2.6.2',NULL,NULL,1,'pkg:deb/debian/libapt-pkg6.0@2.6.2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(24,'deb','libattr1','libattr1','1:2.5.1-4','amd64','attr','1:2.5.1-4',NULL,NULL,1,'pkg:deb/debian/libattr1@1:2.5.1-4?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(25,'deb','libaudit-common','libaudit-common','1:3.0.9-1','all','audit','1:3.0.9-1',NULL,NULL,1,'pkg:deb/debian/libaudit-common@1:3.0.9-1?arch=all&distro=debian-12');
INSERT INTO package VALUES(26,'deb','libaudit1','libaudit1','1:3.0.9-1','amd64','audit','1:3.0.9-1',NULL,NULL,1,'pkg:deb/debian/libaudit1@1:3.0.9-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(27,'deb','libblkid1','libblkid1','2.38.1-5+deb12u3','amd64','util-linux','2.38.1-5+deb12u3',NULL,NULL,1,'pkg:deb/debian/libblkid1@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(28,'deb','libbz2-1.0','libbz2-1.0','1.0.8-5+b1','amd64','bzip2','1.0.8-5',NULL,NULL,1,'pkg:deb/debian/libbz2-1.0@1.0.8-5%2Bb1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(29,'deb','libc-bin','libc-bin','2.36-9+deb12u14','amd64','glibc','2.36-9+deb12u14',NULL,NULL,1,'pkg:deb/debian/libc-bin@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(30,'deb','libc6','libc6','2.36-9+deb12u14','amd64','glibc','2.36-9+deb12u14',NULL,NULL,1,'pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(31,'deb','libcap-ng0','libcap-ng0','0.8.3-1+b3','amd64','libcap-ng','0.8.3-1',NULL,NULL,1,'pkg:deb/debian/libcap-ng0@0.8.3-1%2Bb3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(32,'deb','libcap2','libcap2','1:2.66-4+deb12u3+b1','amd64','libcap2','1:2.66-4+deb12u3',NULL,NULL,1,'pkg:deb/debian/libcap2@1:2.66-4%2Bdeb12u3%2Bb1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(33,'deb','libcom-err2','libcom-err2','1.47.0-2+b2','amd64','e2fsprogs','1.47.0-2',NULL,NULL,1,'pkg:deb/debian/libcom-err2@1.47.0-2%2Bb2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(34,'deb','libcrypt1','libcrypt1','1:4.4.33-2','amd64','libxcrypt','1:4.4.33-2',NULL,NULL,1,'pkg:deb/debian/libcrypt1@1:4.4.33-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(35,'deb','libdb5.3','libdb5.3','5.3.28+dfsg2-1','amd64','db5.3','5.3.28+dfsg2-1',NULL,NULL,1,'pkg:deb/debian/libdb5.3@5.3.28%2Bdfsg2-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(36,'deb','libdebconfclient0','libdebconfclient0','0.270','amd64','cdebconf','0.270',NULL,NULL,1,'pkg:deb/debian/libdebconfclient0@0.270?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(37,'deb','libext2fs2','libext2fs2','1.47.0-2+b2','amd64','e2fsprogs','1.47.0-2',NULL,NULL,1,'pkg:deb/debian/libext2fs2@1.47.0-2%2Bb2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(38,'deb','libffi8','libffi8','3.4.4-1','amd64','libffi','3.4.4-1',NULL,NULL,1,'pkg:deb/debian/libffi8@3.4.4-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(39,'deb','libgcc-s1','libgcc-s1','12.2.0-14+deb12u1','amd64','gcc-12','12.2.0-14+deb12u1',NULL,NULL,1,'pkg:deb/debian/libgcc-s1@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(40,'deb','libgcrypt20','libgcrypt20','1.10.1-3+deb12u1','amd64','libgcrypt20','1.10.1-3+deb12u1',NULL,NULL,1,'pkg:deb/debian/libgcrypt20@1.10.1-3%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(41,'deb','libgmp10','libgmp10','2:6.2.1+dfsg1-1.1','amd64','gmp','2:6.2.1+dfsg1-1.1',NULL,NULL,1,'pkg:deb/debian/libgmp10@2:6.2.1%2Bdfsg1-1.1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(42,'deb','libgnutls30','libgnutls30','3.7.9-2+deb12u7','amd64','gnutls28','3.7.9-2+deb12u7',NULL,NULL,1,'pkg:deb/debian/libgnutls30@3.7.9-2%2Bdeb12u7?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(43,'deb','libgpg-error0','libgpg-error0','1.46-1','amd64','libgpg-error','1.46-1',NULL,NULL,1,'pkg:deb/debian/libgpg-error0@1.46-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(44,'deb','libhogweed6','libhogweed6','3.8.1-2','amd64','nettle','3.8.1-2',NULL,NULL,1,'pkg:deb/debian/libhogweed6@3.8.1-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(45,'deb','libidn2-0','libidn2-0','2.3.3-1+b1','amd64','libidn2','2.3.3-1',NULL,NULL,1,'pkg:deb/debian/libidn2-0@2.3.3-1%2Bb1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(46,'deb','liblz4-1','liblz4-1','1.9.4-1','amd64','lz4','1.9.4-1',NULL,NULL,1,'pkg:deb/debian/liblz4-1@1.9.4-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(47,'deb','liblzma5','liblzma5','5.4.1-1+deb12u2','amd64','xz-utils','5.4.1-1+deb12u2',NULL,NULL,1,'pkg:deb/debian/liblzma5@5.4.1-1%2Bdeb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(48,'deb','libmd0','libmd0','1.0.4-2','amd64','libmd','1.0.4-2',NULL,NULL,1,'pkg:deb/debian/libmd0@1.0.4-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(49,'deb','libmount1','libmount1','2.38.1-5+deb12u3','amd64','util-linux','2.38.1-5+deb12u3',NULL,NULL,1,'pkg:deb/debian/libmount1@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(50,'deb','libnettle8','libnettle8','3.8.1-2','amd64','nettle','3.8.1-2',NULL,NULL,1,'pkg:deb/debian/libnettle8@3.8.1-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(51,'deb','libp11-kit0','libp11-kit0','0.24.1-2','amd64','p11-kit','0.24.1-2',NULL,NULL,1,'pkg:deb/debian/libp11-kit0@0.24.1-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(52,'deb','libpam-modules','libpam-modules','1.5.2-6+deb12u3','amd64','pam','1.5.2-6+deb12u3',NULL,NULL,1,'pkg:deb/debian/libpam-modules@1.5.2-6%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(53,'deb','libpam-modules-bin','libpam-modules-bin','1.5.2-6+deb12u3','amd64','pam','1.5.2-6+deb12u3',NULL,NULL,1,'pkg:deb/debian/libpam-modules-bin@1.5.2-6%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(54,'deb','libpam-runtime','libpam-runtime','1.5.2-6+deb12u3','all','pam','1.5.2-6+deb12u3',NULL,NULL,1,'pkg:deb/debian/libpam-runtime@1.5.2-6%2Bdeb12u3?arch=all&distro=debian-12');
INSERT INTO package VALUES(55,'deb','libpam0g','libpam0g','1.5.2-6+deb12u3','amd64','pam','1.5.2-6+deb12u3',NULL,NULL,1,'pkg:deb/debian/libpam0g@1.5.2-6%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(56,'deb','libpcre2-8-0','libpcre2-8-0','10.42-1+deb12u2','amd64','pcre2','10.42-1+deb12u2',NULL,NULL,1,'pkg:deb/debian/libpcre2-8-0@10.42-1%2Bdeb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(57,'deb','libseccomp2','libseccomp2','2.5.4-1+deb12u1','amd64','libseccomp','2.5.4-1+deb12u1',NULL,NULL,1,'pkg:deb/debian/libseccomp2@2.5.4-1%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(58,'deb','libselinux1','libselinux1','3.4-1+b6','amd64','libselinux','3.4-1',NULL,NULL,1,'pkg:deb/debian/libselinux1@3.4-1%2Bb6?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(59,'deb','libsemanage-common','libsemanage-common','3.4-1','all','libsemanage','3.4-1',NULL,NULL,1,'pkg:deb/debian/libsemanage-common@3.4-1?arch=all&distro=debian-12');
INSERT INTO package VALUES(60,'deb','libsemanage2','libsemanage2','3.4-1+b5','amd64','libsemanage','3.4-1',NULL,NULL,1,'pkg:deb/debian/libsemanage2@3.4-1%2Bb5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(61,'deb','libsepol2','libsepol2','3.4-2.1','amd64','libsepol','3.4-2.1',NULL,NULL,1,'pkg:deb/debian/libsepol2@3.4-2.1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(62,'deb','libsmartcols1','libsmartcols1','2.38.1-5+deb12u3','amd64','util-linux','2.38.1-5+deb12u3',NULL,NULL,1,'pkg:deb/debian/libsmartcols1@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(63,'deb','libss2','libss2','1.47.0-2+b2','amd64','e2fsprogs','1.47.0-2',NULL,NULL,1,'pkg:deb/debian/libss2@1.47.0-2%2Bb2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(64,'deb','libstdc++6','libstdc++6','12.2.0-14+deb12u1','amd64','gcc-12','12.2.0-14+deb12u1',NULL,NULL,1,'pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(65,'deb','libsystemd0','libsystemd0','252.39-1~deb12u2','amd64','systemd','252.39-1~deb12u2',NULL,NULL,1,'pkg:deb/debian/libsystemd0@252.39-1~deb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(66,'deb','libtasn1-6','libtasn1-6','4.19.0-2+deb12u1','amd64','libtasn1-6','4.19.0-2+deb12u1',NULL,NULL,1,'pkg:deb/debian/libtasn1-6@4.19.0-2%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(67,'deb','libtinfo6','libtinfo6','6.4-4','amd64','ncurses','6.4-4',NULL,NULL,1,'pkg:deb/debian/libtinfo6@6.4-4?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(68,'deb','libudev1','libudev1','252.39-1~deb12u2','amd64','systemd','252.39-1~deb12u2',NULL,NULL,1,'pkg:deb/debian/libudev1@252.39-1~deb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(69,'deb','libunistring2','libunistring2','1.0-2','amd64','libunistring','1.0-2',NULL,NULL,1,'pkg:deb/debian/libunistring2@1.0-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(70,'deb','libuuid1','libuuid1','2.38.1-5+deb12u3','amd64','util-linux','2.38.1-5+deb12u3',NULL,NULL,1,'pkg:deb/debian/libuuid1@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(71,'deb','libxxhash0','libxxhash0','0.8.1-1','amd64','xxhash','0.8.1-1',NULL,NULL,1,'pkg:deb/debian/libxxhash0@0.8.1-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(72,'deb','libzstd1','libzstd1','1.5.4+dfsg2-5+deb12u1','amd64','libzstd','1.5.4+dfsg2-5+deb12u1',NULL,NULL,1,'pkg:deb/debian/libzstd1@1.5.4%2Bdfsg2-5%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(73,'deb','login','login','1:4.13+dfsg1-1+deb12u2','amd64','shadow','1:4.13+dfsg1-1+deb12u2',NULL,NULL,1,'pkg:deb/debian/login@1:4.13%2Bdfsg1-1%2Bdeb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(74,'deb','logsave','logsave','1.47.0-2+b2','amd64','e2fsprogs','1.47.0-2',NULL,NULL,1,'pkg:deb/debian/logsave@1.47.0-2%2Bb2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(75,'deb','mawk','mawk','1.3.4.20200120-3.1','amd64','mawk','1.3.4.20200120-3.1',NULL,NULL,1,'pkg:deb/debian/mawk@1.3.4.20200120-3.1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(76,'deb','mount','mount','2.38.1-5+deb12u3','amd64','util-linux','2.38.1-5+deb12u3',NULL,NULL,1,'pkg:deb/debian/mount@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(77,'deb','ncurses-base','ncurses-base','6.4-4','all','ncurses','6.4-4',NULL,NULL,1,'pkg:deb/debian/ncurses-base@6.4-4?arch=all&distro=debian-12');
INSERT INTO package VALUES(78,'deb','ncurses-bin','ncurses-bin','6.4-4','amd64','ncurses','6.4-4',NULL,NULL,1,'pkg:deb/debian/ncurses-bin@6.4-4?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(79,'deb','passwd','passwd','1:4.13+dfsg1-1+deb12u2','amd64','shadow','1:4.13+dfsg1-1+deb12u2',NULL,NULL,1,'pkg:deb/debian/passwd@1:4.13%2Bdfsg1-1%2Bdeb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(80,'deb','perl-base','perl-base','5.36.0-7+deb12u4','amd64','perl','5.36.0-7+deb12u4',NULL,NULL,1,'pkg:deb/debian/perl-base@5.36.0-7%2Bdeb12u4?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(81,'deb','sed','sed','4.9-1+deb12u1','amd64','sed','4.9-1+deb12u1',NULL,NULL,1,'pkg:deb/debian/sed@4.9-1%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(82,'deb','sysvinit-utils','sysvinit-utils','3.06-4','amd64','sysvinit','3.06-4',NULL,NULL,1,'pkg:deb/debian/sysvinit-utils@3.06-4?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(83,'deb','tar','tar','1.34+dfsg-1.2+deb12u1','amd64','tar','1.34+dfsg-1.2+deb12u1',NULL,NULL,1,'pkg:deb/debian/tar@1.34%2Bdfsg-1.2%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(84,'deb','tzdata','tzdata','2026f-0+deb12u1','all','tzdata','2026f-0+deb12u1',NULL,NULL,1,'pkg:deb/debian/tzdata@2026f-0%2Bdeb12u1?arch=all&distro=debian-12');
INSERT INTO package VALUES(85,'deb','usr-is-merged','usr-is-merged','37~deb12u1','all','usrmerge','37~deb12u1',NULL,NULL,1,'pkg:deb/debian/usr-is-merged@37~deb12u1?arch=all&distro=debian-12');
INSERT INTO package VALUES(86,'deb','util-linux','util-linux','2.38.1-5+deb12u3','amd64','util-linux','2.38.1-5+deb12u3',NULL,NULL,1,'pkg:deb/debian/util-linux@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(87,'deb','util-linux-extra','util-linux-extra','2.38.1-5+deb12u3','amd64','util-linux','2.38.1-5+deb12u3',NULL,NULL,1,'pkg:deb/debian/util-linux-extra@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(88,'deb','zlib1g','zlib1g','1:1.2.13.dfsg-1','amd64','zlib','1:1.2.13.dfsg-1',NULL,NULL,1,'pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(89,'deb','ca-certificates','ca-certificates','20250419~deb12u2','all','ca-certificates','20250419~deb12u2',NULL,NULL,1,'pkg:deb/debian/ca-certificates@20250419~deb12u2?arch=all&distro=debian-12');
INSERT INTO package VALUES(99,'deb','libbrotli1','libbrotli1','1.0.9-2+deb12u1','amd64','brotli','1.0.9-2+deb12u1',NULL,NULL,1,'pkg:deb/debian/libbrotli1@1.0.9-2%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(102,'deb','libexpat1','libexpat1','2.5.0-1+deb12u5','amd64','expat','2.5.0-1+deb12u5',NULL,NULL,1,'pkg:deb/debian/libexpat1@2.5.0-1%2Bdeb12u5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(107,'deb','libgssapi-krb5-2','libgssapi-krb5-2','1.20.1-2+deb12u5','amd64','krb5','1.20.1-2+deb12u5',NULL,NULL,1,'pkg:deb/debian/libgssapi-krb5-2@1.20.1-2%2Bdeb12u5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(110,'deb','libk5crypto3','libk5crypto3','1.20.1-2+deb12u5','amd64','krb5','1.20.1-2+deb12u5',NULL,NULL,1,'pkg:deb/debian/libk5crypto3@1.20.1-2%2Bdeb12u5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(111,'deb','libkeyutils1','libkeyutils1','1.6.3-2','amd64','keyutils','1.6.3-2',NULL,NULL,1,'pkg:deb/debian/libkeyutils1@1.6.3-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(112,'deb','libkrb5-3','libkrb5-3','1.20.1-2+deb12u5','amd64','krb5','1.20.1-2+deb12u5',NULL,NULL,1,'pkg:deb/debian/libkrb5-3@1.20.1-2%2Bdeb12u5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(113,'deb','libkrb5support0','libkrb5support0','1.20.1-2+deb12u5','amd64','krb5','1.20.1-2+deb12u5',NULL,NULL,1,'pkg:deb/debian/libkrb5support0@1.20.1-2%2Bdeb12u5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(119,'deb','libsqlite3-0','libsqlite3-0','3.40.1-2+deb12u2','amd64','sqlite3','3.40.1-2+deb12u2',NULL,NULL,1,'pkg:deb/debian/libsqlite3-0@3.40.1-2%2Bdeb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(120,'deb','libssl3','libssl3','3.0.22-1~deb12u2','amd64','openssl','3.0.22-1~deb12u2',NULL,NULL,1,'pkg:deb/debian/libssl3@3.0.22-1~deb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(122,'deb','openssl','openssl','3.0.22-1~deb12u2','amd64','openssl','3.0.22-1~deb12u2',NULL,NULL,1,'pkg:deb/debian/openssl@3.0.22-1~deb12u2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(155,'deb','curl','curl','7.88.1-10+deb12u15','amd64','curl','7.88.1-10+deb12u15',NULL,NULL,1,'pkg:deb/debian/curl@7.88.1-10%2Bdeb12u15?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(156,'deb','libarchive13','libarchive13','3.6.2-1+deb12u5','amd64','libarchive','3.6.2-1+deb12u5',NULL,NULL,1,'pkg:deb/debian/libarchive13@3.6.2-1%2Bdeb12u5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(157,'deb','libcurl4','libcurl4','7.88.1-10+deb12u15','amd64','curl','7.88.1-10+deb12u15',NULL,NULL,1,'pkg:deb/debian/libcurl4@7.88.1-10%2Bdeb12u15?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(158,'deb','libicu72','libicu72','72.1-3+deb12u1','amd64','icu','72.1-3+deb12u1',NULL,NULL,1,'pkg:deb/debian/libicu72@72.1-3%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(159,'deb','libldap-2.5-0','libldap-2.5-0','2.5.13+dfsg-5','amd64','openldap','2.5.13+dfsg-5',NULL,NULL,1,'pkg:deb/debian/libldap-2.5-0@2.5.13%2Bdfsg-5?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(160,'deb','libncursesw6','libncursesw6','6.4-4','amd64','ncurses','6.4-4',NULL,NULL,1,'pkg:deb/debian/libncursesw6@6.4-4?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(161,'deb','libnghttp2-14','libnghttp2-14','1.52.0-1+deb12u3','amd64','nghttp2','1.52.0-1+deb12u3',NULL,NULL,1,'pkg:deb/debian/libnghttp2-14@1.52.0-1%2Bdeb12u3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(162,'deb','libpsl5','libpsl5','0.21.2-1','amd64','libpsl','0.21.2-1',NULL,NULL,1,'pkg:deb/debian/libpsl5@0.21.2-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(163,'deb','librtmp1','librtmp1','2.4+20151223.gitfa8646d.1-2+b2','amd64','rtmpdump','2.4+20151223.gitfa8646d.1-2',NULL,NULL,1,'pkg:deb/debian/librtmp1@2.4%2B20151223.gitfa8646d.1-2%2Bb2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(164,'deb','libsasl2-2','libsasl2-2','2.1.28+dfsg-10+deb12u1','amd64','cyrus-sasl2','2.1.28+dfsg-10+deb12u1',NULL,NULL,1,'pkg:deb/debian/libsasl2-2@2.1.28%2Bdfsg-10%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(165,'deb','libsasl2-modules-db','libsasl2-modules-db','2.1.28+dfsg-10+deb12u1','amd64','cyrus-sasl2','2.1.28+dfsg-10+deb12u1',NULL,NULL,1,'pkg:deb/debian/libsasl2-modules-db@2.1.28%2Bdfsg-10%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(166,'deb','libssh2-1','libssh2-1','1.10.0-3+b1','amd64','libssh2','1.10.0-3',NULL,NULL,1,'pkg:deb/debian/libssh2-1@1.10.0-3%2Bb1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(167,'deb','libxml2','libxml2','2.9.14+dfsg-1.3~deb12u6','amd64','libxml2','2.9.14+dfsg-1.3~deb12u6',NULL,NULL,1,'pkg:deb/debian/libxml2@2.9.14%2Bdfsg-1.3~deb12u6?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(168,'deb','nano','nano','7.2-1+deb12u1','amd64','nano','7.2-1+deb12u1',NULL,NULL,1,'pkg:deb/debian/nano@7.2-1%2Bdeb12u1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(169,'deb','libnsl2','libnsl2','1.3.0-2','amd64','libnsl','1.3.0-2',NULL,NULL,1,'pkg:deb/debian/libnsl2@1.3.0-2?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(170,'deb','libpython3-stdlib','libpython3-stdlib','3.11.2-1+b1','amd64','python3-defaults','3.11.2-1',NULL,NULL,1,'pkg:deb/debian/libpython3-stdlib@3.11.2-1%2Bb1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(171,'deb','libpython3.11-minimal','libpython3.11-minimal','3.11.2-6+deb12u9','amd64','python3.11','3.11.2-6+deb12u9',NULL,NULL,1,'pkg:deb/debian/libpython3.11-minimal@3.11.2-6%2Bdeb12u9?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(172,'deb','libpython3.11-stdlib','libpython3.11-stdlib','3.11.2-6+deb12u9','amd64','python3.11','3.11.2-6+deb12u9',NULL,NULL,1,'pkg:deb/debian/libpython3.11-stdlib@3.11.2-6%2Bdeb12u9?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(173,'deb','libreadline8','libreadline8','8.2-1.3','amd64','readline','8.2-1.3',NULL,NULL,1,'pkg:deb/debian/libreadline8@8.2-1.3?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(174,'deb','libtirpc-common','libtirpc-common','1.3.3+ds-1','all','libtirpc','1.3.3+ds-1',NULL,NULL,1,'pkg:deb/debian/libtirpc-common@1.3.3%2Bds-1?arch=all&distro=debian-12');
INSERT INTO package VALUES(175,'deb','libtirpc3','libtirpc3','1.3.3+ds-1','amd64','libtirpc','1.3.3+ds-1',NULL,NULL,1,'pkg:deb/debian/libtirpc3@1.3.3%2Bds-1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(176,'deb','media-types','media-types','10.0.0','all','media-types','10.0.0',NULL,NULL,1,'pkg:deb/debian/media-types@10.0.0?arch=all&distro=debian-12');
INSERT INTO package VALUES(177,'deb','python3','python3','3.11.2-1+b1','amd64','python3-defaults','3.11.2-1',NULL,NULL,1,'pkg:deb/debian/python3@3.11.2-1%2Bb1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(178,'deb','python3-certifi','python3-certifi','2022.9.24-1','all','python-certifi','2022.9.24-1',NULL,NULL,1,'pkg:deb/debian/python3-certifi@2022.9.24-1?arch=all&distro=debian-12');
INSERT INTO package VALUES(179,'deb','python3-chardet','python3-chardet','5.1.0+dfsg-2','all','chardet','5.1.0+dfsg-2',NULL,NULL,1,'pkg:deb/debian/python3-chardet@5.1.0%2Bdfsg-2?arch=all&distro=debian-12');
INSERT INTO package VALUES(180,'deb','python3-charset-normalizer','python3-charset-normalizer','3.0.1-2','all','python-charset-normalizer','3.0.1-2',NULL,NULL,1,'pkg:deb/debian/python3-charset-normalizer@3.0.1-2?arch=all&distro=debian-12');
INSERT INTO package VALUES(181,'deb','python3-distutils','python3-distutils','3.11.2-3','all','python3-stdlib-extensions','3.11.2-3',NULL,NULL,1,'pkg:deb/debian/python3-distutils@3.11.2-3?arch=all&distro=debian-12');
INSERT INTO package VALUES(182,'deb','python3-idna','python3-idna','3.3-1+deb12u1','all','python-idna','3.3-1+deb12u1',NULL,NULL,1,'pkg:deb/debian/python3-idna@3.3-1%2Bdeb12u1?arch=all&distro=debian-12');
INSERT INTO package VALUES(183,'deb','python3-lib2to3','python3-lib2to3','3.11.2-3','all','python3-stdlib-extensions','3.11.2-3',NULL,NULL,1,'pkg:deb/debian/python3-lib2to3@3.11.2-3?arch=all&distro=debian-12');
INSERT INTO package VALUES(184,'deb','python3-minimal','python3-minimal','3.11.2-1+b1','amd64','python3-defaults','3.11.2-1',NULL,NULL,1,'pkg:deb/debian/python3-minimal@3.11.2-1%2Bb1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(185,'deb','python3-pip-whl','python3-pip-whl','23.0.1+dfsg-1','all','python-pip','23.0.1+dfsg-1',NULL,NULL,1,'pkg:deb/debian/python3-pip-whl@23.0.1%2Bdfsg-1?arch=all&distro=debian-12');
INSERT INTO package VALUES(186,'deb','python3-pkg-resources','python3-pkg-resources','66.1.1-1+deb12u2','all','setuptools','66.1.1-1+deb12u2',NULL,NULL,1,'pkg:deb/debian/python3-pkg-resources@66.1.1-1%2Bdeb12u2?arch=all&distro=debian-12');
INSERT INTO package VALUES(187,'deb','python3-requests','python3-requests','2.28.1+dfsg-1','all','requests','2.28.1+dfsg-1',NULL,NULL,1,'pkg:deb/debian/python3-requests@2.28.1%2Bdfsg-1?arch=all&distro=debian-12');
INSERT INTO package VALUES(188,'deb','python3-setuptools-whl','python3-setuptools-whl','66.1.1-1+deb12u2','all','setuptools','66.1.1-1+deb12u2',NULL,NULL,1,'pkg:deb/debian/python3-setuptools-whl@66.1.1-1%2Bdeb12u2?arch=all&distro=debian-12');
INSERT INTO package VALUES(189,'deb','python3-six','python3-six','1.16.0-4','all','six','1.16.0-4',NULL,NULL,1,'pkg:deb/debian/python3-six@1.16.0-4?arch=all&distro=debian-12');
INSERT INTO package VALUES(190,'deb','python3-urllib3','python3-urllib3','1.26.12-1+deb12u4','all','python-urllib3','1.26.12-1+deb12u4',NULL,NULL,1,'pkg:deb/debian/python3-urllib3@1.26.12-1%2Bdeb12u4?arch=all&distro=debian-12');
INSERT INTO package VALUES(191,'deb','python3-venv','python3-venv','3.11.2-1+b1','amd64','python3-defaults','3.11.2-1',NULL,NULL,1,'pkg:deb/debian/python3-venv@3.11.2-1%2Bb1?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(192,'deb','python3.11','python3.11','3.11.2-6+deb12u9','amd64','python3.11','3.11.2-6+deb12u9',NULL,NULL,1,'pkg:deb/debian/python3.11@3.11.2-6%2Bdeb12u9?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(193,'deb','python3.11-minimal','python3.11-minimal','3.11.2-6+deb12u9','amd64','python3.11','3.11.2-6+deb12u9',NULL,NULL,1,'pkg:deb/debian/python3.11-minimal@3.11.2-6%2Bdeb12u9?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(194,'deb','python3.11-venv','python3.11-venv','3.11.2-6+deb12u9','amd64','python3.11','3.11.2-6+deb12u9',NULL,NULL,1,'pkg:deb/debian/python3.11-venv@3.11.2-6%2Bdeb12u9?arch=amd64&distro=debian-12');
INSERT INTO package VALUES(195,'deb','readline-common','readline-common','8.2-1.3','all','readline','8.2-1.3',NULL,NULL,1,'pkg:deb/debian/readline-common@8.2-1.3?arch=all&distro=debian-12');
INSERT INTO package VALUES(196,'pypi','Django','Django','3.2.10',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/django@3.2.10');
INSERT INTO package VALUES(197,'pypi','Flask','Flask','1.1.2',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/flask@1.1.2');
INSERT INTO package VALUES(198,'pypi','Jinja2','Jinja2','2.11.2',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/jinja2@2.11.2');
INSERT INTO package VALUES(199,'pypi','MarkupSafe','MarkupSafe','2.0.1',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/markupsafe@2.0.1');
INSERT INTO package VALUES(200,'pypi','Pillow','Pillow','9.4.0',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/pillow@9.4.0');
INSERT INTO package VALUES(201,'pypi','Werkzeug','Werkzeug','1.0.1',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/werkzeug@1.0.1');
INSERT INTO package VALUES(202,'pypi','certifi','certifi','2022.9.24',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/certifi@2022.9.24');
INSERT INTO package VALUES(203,'pypi','chardet','chardet','5.1.0',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/chardet@5.1.0');
INSERT INTO package VALUES(204,'pypi','charset-normalizer','charset-normalizer','3.0.1',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/charset-normalizer@3.0.1');
INSERT INTO package VALUES(205,'pypi','click','click','8.0.4',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/click@8.0.4');
INSERT INTO package VALUES(206,'pypi','cryptography','cryptography','39.0.0',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/cryptography@39.0.0');
INSERT INTO package VALUES(207,'pypi','idna','idna','2.10',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/idna@2.10');
INSERT INTO package VALUES(208,'pypi','idna','idna','3.3',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/idna@3.3');
INSERT INTO package VALUES(209,'pypi','itsdangerous','itsdangerous','1.1.0',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/itsdangerous@1.1.0');
INSERT INTO package VALUES(210,'pypi','numpy','numpy','1.24.4',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/numpy@1.24.4');
INSERT INTO package VALUES(211,'pypi','pandas','pandas','1.5.3',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/pandas@1.5.3');
INSERT INTO package VALUES(212,'pypi','pip','pip','23.0.1',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/pip@23.0.1');
INSERT INTO package VALUES(213,'pypi','requests','requests','2.25.1',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/requests@2.25.1');
INSERT INTO package VALUES(214,'pypi','requests','requests','2.28.1',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/requests@2.28.1');
INSERT INTO package VALUES(215,'pypi','setuptools','setuptools','66.1.1',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/setuptools@66.1.1');
INSERT INTO package VALUES(216,'pypi','six','six','1.16.0',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/six@1.16.0');
INSERT INTO package VALUES(217,'pypi','sqlparse','sqlparse','0.4.2',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/sqlparse@0.4.2');
INSERT INTO package VALUES(218,'pypi','urllib3','urllib3','1.26.12',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/urllib3@1.26.12');
INSERT INTO package VALUES(219,'pypi','urllib3','urllib3','1.26.4',NULL,NULL,NULL,NULL,NULL,NULL,'pkg:pypi/urllib3@1.26.4');
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,
    paths TEXT NOT NULL
) STRICT;
INSERT INTO evidence VALUES(1,'/var/lib/dpkg/status');
INSERT INTO evidence VALUES(29,'/opt/venv/lib/python3.11/site-packages/Django-3.2.10.dist-info/METADATA');
INSERT INTO evidence VALUES(30,'/opt/venv/lib/python3.11/site-packages/Flask-1.1.2.dist-info/METADATA');
INSERT INTO evidence VALUES(31,'/opt/venv/lib/python3.11/site-packages/Jinja2-2.11.2.dist-info/METADATA');
INSERT INTO evidence VALUES(32,'/opt/venv/lib/python3.11/site-packages/MarkupSafe-2.0.1.egg-info/PKG-INFO');
INSERT INTO evidence VALUES(33,'/opt/venv/lib/python3.11/site-packages/Pillow-9.4.0.dist-info/METADATA');
INSERT INTO evidence VALUES(34,'/opt/venv/lib/python3.11/site-packages/Werkzeug-1.0.1.dist-info/METADATA');
INSERT INTO evidence VALUES(35,'/opt/venv/lib/python3.11/site-packages/certifi-2022.9.24.dist-info/METADATA');
INSERT INTO evidence VALUES(36,'/usr/lib/python3/dist-packages/certifi-2022.9.24.egg-info/PKG-INFO');
INSERT INTO evidence VALUES(37,'/usr/lib/python3/dist-packages/chardet-5.1.0.dist-info/METADATA');
INSERT INTO evidence VALUES(38,'/usr/lib/python3/dist-packages/charset_normalizer-3.0.1.dist-info/METADATA');
INSERT INTO evidence VALUES(39,'/opt/venv/lib/python3.11/site-packages/click-8.0.4.dist-info/METADATA');
INSERT INTO evidence VALUES(40,'/opt/venv/lib/python3.11/site-packages/cryptography-39.0.0.dist-info/METADATA');
INSERT INTO evidence VALUES(41,'/opt/venv/lib/python3.11/site-packages/idna-2.10.dist-info/METADATA');
INSERT INTO evidence VALUES(42,'/usr/lib/python3/dist-packages/idna-3.3.egg-info/PKG-INFO');
INSERT INTO evidence VALUES(43,'/opt/venv/lib/python3.11/site-packages/itsdangerous-1.1.0.dist-info/METADATA');
INSERT INTO evidence VALUES(44,'/opt/venv/lib/python3.11/site-packages/numpy-1.24.4.dist-info/METADATA');
INSERT INTO evidence VALUES(45,'/opt/venv/lib/python3.11/site-packages/pandas-1.5.3.dist-info/METADATA');
INSERT INTO evidence VALUES(46,'/opt/venv/lib/python3.11/site-packages/pip-23.0.1.dist-info/METADATA');
INSERT INTO evidence VALUES(47,'/opt/venv/lib/python3.11/site-packages/requests-2.25.1.dist-info/METADATA');
INSERT INTO evidence VALUES(48,'/usr/lib/python3/dist-packages/requests-2.28.1.egg-info/PKG-INFO');
INSERT INTO evidence VALUES(49,'/opt/venv/lib/python3.11/site-packages/setuptools-66.1.1.dist-info/METADATA');
INSERT INTO evidence VALUES(50,'/usr/lib/python3/dist-packages/six-1.16.0.egg-info/PKG-INFO');
INSERT INTO evidence VALUES(51,'/opt/venv/lib/python3.11/site-packages/sqlparse-0.4.2.dist-info/METADATA');
INSERT INTO evidence VALUES(52,'/usr/lib/python3/dist-packages/urllib3-1.26.12.egg-info/PKG-INFO');
INSERT INTO evidence VALUES(53,'/opt/venv/lib/python3.11/site-packages/urllib3-1.26.4.dist-info/METADATA');
CREATE TABLE stack (
    id INTEGER PRIMARY KEY,
    -- The chain ID of the newest layer: the stack's identity.
    chain BLOB NOT NULL UNIQUE,
    -- Identities of its layers, newest first, one a line.
    layers TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    distribution INTEGER REFERENCES distribution,
    -- Types of its packages: bit n is the type whose number in the encoding of facts is n.
    types INTEGER NOT NULL,
    -- The oldest version of the cataloguers that read one of its layers; 0 where its packages were removed, since nobody ran it.
    cataloguers INTEGER NOT NULL,
    packages INTEGER NOT NULL,
    unidentified INTEGER NOT NULL,
    -- What follows from its open findings, kept since the status of all stacks is asked for often: how many are left to the
    -- distribution; how many there are of each severity, the mildest first, and from each layer, newest first, as JSON.
    withheld INTEGER NOT NULL DEFAULT 0,
    severities TEXT NOT NULL DEFAULT '[]',
    by_layer TEXT NOT NULL DEFAULT '[]'
) STRICT;
INSERT INTO stack VALUES(4,X'710aefc251e0956e5772679ad0676db551f5ffd92a0db290190228c12a1679ae',replace('diff:sha256:dce95aa74b1e3c42fedc71054530d81ba357a01e845f81183d2fc3790efabced\ndiff:sha256:ee382b9fc9602d22f8c2b501b675d8e3b4dee6809e89e03edaddb798c55cc037\ndiff:sha256:46f90cd29ddf66b56b6171e630efcde6005e86b89d0cfbbac356e8b68eb8a5ab\ndiff:sha256:ca3d8ce6ea9d46ca6aa08d9d6efd04009d14a015a68506636271046b686ad21c\ndiff:sha256:bb00814df0dfc4e43f091a0994c4575933484f6c5f6374f162bff29d4ab6aa77\nchain:sha256:c57fcec53b54416faf8b6e8091a1b5bbdbc161b2659b057abb9ba298afcceace','\n',char(10)),'scanned','',1,2,1,109,0,0,'[0,0,0,0,0,7]','[0,0,0,0,7,0]');
INSERT INTO stack VALUES(5,X'b5cdce38af6ce66297af99f928226de4dc64892c635122e08cb1418747035914',replace('diff:sha256:10d7886d05d1d0fb84eb4c31007a0a26af094fb3dc77ee5d1a9cd6b13e5b0752\ndiff:sha256:0206d48945c1d9666d4686eddde3049cbd921cb26a6d65387a52982a46a5ed91\ndiff:sha256:83843151c13d6167c967aeffe6fb112d8ba89d27f521e9bfb683d50325ce8aa1\nchain:sha256:c57fcec53b54416faf8b6e8091a1b5bbdbc161b2659b057abb9ba298afcceace','\n',char(10)),'scanned','',1,18,1,151,0,2,'[0,5,1,1,0,33]','[0,38,2,0]');
CREATE TABLE stack_package (
    stack INTEGER NOT NULL REFERENCES stack ON DELETE CASCADE,
    package INTEGER NOT NULL,
    -- The package that installed it, unchanged; 0 for none.
    owner INTEGER NOT NULL,
    -- Index into the stack's layers.
    layer INTEGER NOT NULL,
    evidence INTEGER NOT NULL,
    PRIMARY KEY (stack, package, owner)
) STRICT, WITHOUT ROWID;
INSERT INTO stack_package VALUES(4,1,0,5,1);
INSERT INTO stack_package VALUES(4,2,0,5,1);
INSERT INTO stack_package VALUES(4,3,0,5,1);
INSERT INTO stack_package VALUES(4,4,0,5,1);
INSERT INTO stack_package VALUES(4,5,0,5,1);
INSERT INTO stack_package VALUES(4,6,0,5,1);
INSERT INTO stack_package VALUES(4,7,0,5,1);
INSERT INTO stack_package VALUES(4,8,0,5,1);
INSERT INTO stack_package VALUES(4,9,0,5,1);
INSERT INTO stack_package VALUES(4,10,0,5,1);
INSERT INTO stack_package VALUES(4,11,0,5,1);
INSERT INTO stack_package VALUES(4,12,0,5,1);
INSERT INTO stack_package VALUES(4,13,0,5,1);
INSERT INTO stack_package VALUES(4,14,0,5,1);
INSERT INTO stack_package VALUES(4,15,0,5,1);
INSERT INTO stack_package VALUES(4,16,0,5,1);
INSERT INTO stack_package VALUES(4,17,0,5,1);
INSERT INTO stack_package VALUES(4,18,0,5,1);
INSERT INTO stack_package VALUES(4,19,0,5,1);
INSERT INTO stack_package VALUES(4,20,0,5,1);
INSERT INTO stack_package VALUES(4,21,0,5,1);
INSERT INTO stack_package VALUES(4,22,0,5,1);
INSERT INTO stack_package VALUES(4,23,0,5,1);
INSERT INTO stack_package VALUES(4,24,0,5,1);
INSERT INTO stack_package VALUES(4,25,0,5,1);
INSERT INTO stack_package VALUES(4,26,0,5,1);
INSERT INTO stack_package VALUES(4,27,0,5,1);
INSERT INTO stack_package VALUES(4,28,0,5,1);
INSERT INTO stack_package VALUES(4,29,0,5,1);
INSERT INTO stack_package VALUES(4,30,0,5,1);
INSERT INTO stack_package VALUES(4,31,0,5,1);
INSERT INTO stack_package VALUES(4,32,0,5,1);
INSERT INTO stack_package VALUES(4,33,0,5,1);
INSERT INTO stack_package VALUES(4,34,0,5,1);
INSERT INTO stack_package VALUES(4,35,0,5,1);
INSERT INTO stack_package VALUES(4,36,0,5,1);
INSERT INTO stack_package VALUES(4,37,0,5,1);
INSERT INTO stack_package VALUES(4,38,0,5,1);
INSERT INTO stack_package VALUES(4,39,0,5,1);
INSERT INTO stack_package VALUES(4,40,0,5,1);
INSERT INTO stack_package VALUES(4,41,0,5,1);
INSERT INTO stack_package VALUES(4,42,0,5,1);
INSERT INTO stack_package VALUES(4,43,0,5,1);
INSERT INTO stack_package VALUES(4,44,0,5,1);
INSERT INTO stack_package VALUES(4,45,0,5,1);
INSERT INTO stack_package VALUES(4,46,0,5,1);
INSERT INTO stack_package VALUES(4,47,0,5,1);
INSERT INTO stack_package VALUES(4,48,0,5,1);
INSERT INTO stack_package VALUES(4,49,0,5,1);
INSERT INTO stack_package VALUES(4,50,0,5,1);
INSERT INTO stack_package VALUES(4,51,0,5,1);
INSERT INTO stack_package VALUES(4,52,0,5,1);
INSERT INTO stack_package VALUES(4,53,0,5,1);
INSERT INTO stack_package VALUES(4,54,0,5,1);
INSERT INTO stack_package VALUES(4,55,0,5,1);
INSERT INTO stack_package VALUES(4,56,0,5,1);
INSERT INTO stack_package VALUES(4,57,0,5,1);
INSERT INTO stack_package VALUES(4,58,0,5,1);
INSERT INTO stack_package VALUES(4,59,0,5,1);
INSERT INTO stack_package VALUES(4,60,0,5,1);
INSERT INTO stack_package VALUES(4,61,0,5,1);
INSERT INTO stack_package VALUES(4,62,0,5,1);
INSERT INTO stack_package VALUES(4,63,0,5,1);
INSERT INTO stack_package VALUES(4,64,0,5,1);
INSERT INTO stack_package VALUES(4,65,0,5,1);
INSERT INTO stack_package VALUES(4,66,0,5,1);
INSERT INTO stack_package VALUES(4,67,0,5,1);
INSERT INTO stack_package VALUES(4,68,0,5,1);
INSERT INTO stack_package VALUES(4,69,0,5,1);
INSERT INTO stack_package VALUES(4,70,0,5,1);
INSERT INTO stack_package VALUES(4,71,0,5,1);
INSERT INTO stack_package VALUES(4,72,0,5,1);
INSERT INTO stack_package VALUES(4,73,0,5,1);
INSERT INTO stack_package VALUES(4,74,0,5,1);
INSERT INTO stack_package VALUES(4,75,0,5,1);
INSERT INTO stack_package VALUES(4,76,0,5,1);
INSERT INTO stack_package VALUES(4,77,0,5,1);
INSERT INTO stack_package VALUES(4,78,0,5,1);
INSERT INTO stack_package VALUES(4,79,0,5,1);
INSERT INTO stack_package VALUES(4,80,0,5,1);
INSERT INTO stack_package VALUES(4,81,0,5,1);
INSERT INTO stack_package VALUES(4,82,0,5,1);
INSERT INTO stack_package VALUES(4,83,0,5,1);
INSERT INTO stack_package VALUES(4,85,0,5,1);
INSERT INTO stack_package VALUES(4,86,0,5,1);
INSERT INTO stack_package VALUES(4,87,0,5,1);
INSERT INTO stack_package VALUES(4,88,0,5,1);
INSERT INTO stack_package VALUES(4,99,0,4,1);
INSERT INTO stack_package VALUES(4,107,0,4,1);
INSERT INTO stack_package VALUES(4,110,0,4,1);
INSERT INTO stack_package VALUES(4,111,0,4,1);
INSERT INTO stack_package VALUES(4,112,0,4,1);
INSERT INTO stack_package VALUES(4,113,0,4,1);
INSERT INTO stack_package VALUES(4,120,0,3,1);
INSERT INTO stack_package VALUES(4,122,0,3,1);
INSERT INTO stack_package VALUES(4,155,0,4,1);
INSERT INTO stack_package VALUES(4,156,0,3,1);
INSERT INTO stack_package VALUES(4,157,0,4,1);
INSERT INTO stack_package VALUES(4,158,0,4,1);
INSERT INTO stack_package VALUES(4,159,0,4,1);
INSERT INTO stack_package VALUES(4,160,0,4,1);
INSERT INTO stack_package VALUES(4,161,0,4,1);
INSERT INTO stack_package VALUES(4,162,0,4,1);
INSERT INTO stack_package VALUES(4,163,0,4,1);
INSERT INTO stack_package VALUES(4,164,0,4,1);
INSERT INTO stack_package VALUES(4,165,0,4,1);
INSERT INTO stack_package VALUES(4,166,0,4,1);
INSERT INTO stack_package VALUES(4,167,0,4,1);
INSERT INTO stack_package VALUES(4,168,0,4,1);
INSERT INTO stack_package VALUES(5,1,0,3,1);
INSERT INTO stack_package VALUES(5,2,0,3,1);
INSERT INTO stack_package VALUES(5,3,0,3,1);
INSERT INTO stack_package VALUES(5,4,0,3,1);
INSERT INTO stack_package VALUES(5,5,0,3,1);
INSERT INTO stack_package VALUES(5,6,0,3,1);
INSERT INTO stack_package VALUES(5,7,0,3,1);
INSERT INTO stack_package VALUES(5,8,0,3,1);
INSERT INTO stack_package VALUES(5,9,0,3,1);
INSERT INTO stack_package VALUES(5,10,0,3,1);
INSERT INTO stack_package VALUES(5,11,0,3,1);
INSERT INTO stack_package VALUES(5,12,0,3,1);
INSERT INTO stack_package VALUES(5,13,0,3,1);
INSERT INTO stack_package VALUES(5,14,0,3,1);
INSERT INTO stack_package VALUES(5,15,0,3,1);
INSERT INTO stack_package VALUES(5,16,0,3,1);
INSERT INTO stack_package VALUES(5,17,0,3,1);
INSERT INTO stack_package VALUES(5,18,0,3,1);
INSERT INTO stack_package VALUES(5,19,0,3,1);
INSERT INTO stack_package VALUES(5,20,0,3,1);
INSERT INTO stack_package VALUES(5,21,0,3,1);
INSERT INTO stack_package VALUES(5,22,0,3,1);
INSERT INTO stack_package VALUES(5,23,0,3,1);
INSERT INTO stack_package VALUES(5,24,0,3,1);
INSERT INTO stack_package VALUES(5,25,0,3,1);
INSERT INTO stack_package VALUES(5,26,0,3,1);
INSERT INTO stack_package VALUES(5,27,0,3,1);
INSERT INTO stack_package VALUES(5,28,0,3,1);
INSERT INTO stack_package VALUES(5,29,0,3,1);
INSERT INTO stack_package VALUES(5,30,0,3,1);
INSERT INTO stack_package VALUES(5,31,0,3,1);
INSERT INTO stack_package VALUES(5,32,0,3,1);
INSERT INTO stack_package VALUES(5,33,0,3,1);
INSERT INTO stack_package VALUES(5,34,0,3,1);
INSERT INTO stack_package VALUES(5,35,0,3,1);
INSERT INTO stack_package VALUES(5,36,0,3,1);
INSERT INTO stack_package VALUES(5,37,0,3,1);
INSERT INTO stack_package VALUES(5,38,0,3,1);
INSERT INTO stack_package VALUES(5,39,0,3,1);
INSERT INTO stack_package VALUES(5,40,0,3,1);
INSERT INTO stack_package VALUES(5,41,0,3,1);
INSERT INTO stack_package VALUES(5,42,0,3,1);
INSERT INTO stack_package VALUES(5,43,0,3,1);
INSERT INTO stack_package VALUES(5,44,0,3,1);
INSERT INTO stack_package VALUES(5,45,0,3,1);
INSERT INTO stack_package VALUES(5,46,0,3,1);
INSERT INTO stack_package VALUES(5,47,0,3,1);
INSERT INTO stack_package VALUES(5,48,0,3,1);
INSERT INTO stack_package VALUES(5,49,0,3,1);
INSERT INTO stack_package VALUES(5,50,0,3,1);
INSERT INTO stack_package VALUES(5,51,0,3,1);
INSERT INTO stack_package VALUES(5,52,0,3,1);
INSERT INTO stack_package VALUES(5,53,0,3,1);
INSERT INTO stack_package VALUES(5,54,0,3,1);
INSERT INTO stack_package VALUES(5,55,0,3,1);
INSERT INTO stack_package VALUES(5,56,0,3,1);
INSERT INTO stack_package VALUES(5,57,0,3,1);
INSERT INTO stack_package VALUES(5,58,0,3,1);
INSERT INTO stack_package VALUES(5,59,0,3,1);
INSERT INTO stack_package VALUES(5,60,0,3,1);
INSERT INTO stack_package VALUES(5,61,0,3,1);
INSERT INTO stack_package VALUES(5,62,0,3,1);
INSERT INTO stack_package VALUES(5,63,0,3,1);
INSERT INTO stack_package VALUES(5,64,0,3,1);
INSERT INTO stack_package VALUES(5,65,0,3,1);
INSERT INTO stack_package VALUES(5,66,0,3,1);
INSERT INTO stack_package VALUES(5,67,0,3,1);
INSERT INTO stack_package VALUES(5,68,0,3,1);
INSERT INTO stack_package VALUES(5,69,0,3,1);
INSERT INTO stack_package VALUES(5,70,0,3,1);
INSERT INTO stack_package VALUES(5,71,0,3,1);
INSERT INTO stack_package VALUES(5,72,0,3,1);
INSERT INTO stack_package VALUES(5,73,0,3,1);
INSERT INTO stack_package VALUES(5,74,0,3,1);
INSERT INTO stack_package VALUES(5,75,0,3,1);
INSERT INTO stack_package VALUES(5,76,0,3,1);
INSERT INTO stack_package VALUES(5,77,0,3,1);
INSERT INTO stack_package VALUES(5,78,0,3,1);
INSERT INTO stack_package VALUES(5,79,0,3,1);
INSERT INTO stack_package VALUES(5,80,0,3,1);
INSERT INTO stack_package VALUES(5,81,0,3,1);
INSERT INTO stack_package VALUES(5,82,0,3,1);
INSERT INTO stack_package VALUES(5,83,0,3,1);
INSERT INTO stack_package VALUES(5,84,0,3,1);
INSERT INTO stack_package VALUES(5,85,0,3,1);
INSERT INTO stack_package VALUES(5,86,0,3,1);
INSERT INTO stack_package VALUES(5,87,0,3,1);
INSERT INTO stack_package VALUES(5,88,0,3,1);
INSERT INTO stack_package VALUES(5,89,0,2,1);
INSERT INTO stack_package VALUES(5,102,0,2,1);
INSERT INTO stack_package VALUES(5,107,0,2,1);
INSERT INTO stack_package VALUES(5,110,0,2,1);
INSERT INTO stack_package VALUES(5,111,0,2,1);
INSERT INTO stack_package VALUES(5,112,0,2,1);
INSERT INTO stack_package VALUES(5,113,0,2,1);
INSERT INTO stack_package VALUES(5,119,0,2,1);
INSERT INTO stack_package VALUES(5,120,0,2,1);
INSERT INTO stack_package VALUES(5,122,0,2,1);
INSERT INTO stack_package VALUES(5,160,0,2,1);
INSERT INTO stack_package VALUES(5,169,0,2,1);
INSERT INTO stack_package VALUES(5,170,0,2,1);
INSERT INTO stack_package VALUES(5,171,0,2,1);
INSERT INTO stack_package VALUES(5,172,0,2,1);
INSERT INTO stack_package VALUES(5,173,0,2,1);
INSERT INTO stack_package VALUES(5,174,0,2,1);
INSERT INTO stack_package VALUES(5,175,0,2,1);
INSERT INTO stack_package VALUES(5,176,0,2,1);
INSERT INTO stack_package VALUES(5,177,0,2,1);
INSERT INTO stack_package VALUES(5,178,0,2,1);
INSERT INTO stack_package VALUES(5,179,0,2,1);
INSERT INTO stack_package VALUES(5,180,0,2,1);
INSERT INTO stack_package VALUES(5,181,0,2,1);
INSERT INTO stack_package VALUES(5,182,0,2,1);
INSERT INTO stack_package VALUES(5,183,0,2,1);
INSERT INTO stack_package VALUES(5,184,0,2,1);
INSERT INTO stack_package VALUES(5,185,0,2,1);
INSERT INTO stack_package VALUES(5,186,0,2,1);
INSERT INTO stack_package VALUES(5,187,0,2,1);
INSERT INTO stack_package VALUES(5,188,0,2,1);
INSERT INTO stack_package VALUES(5,189,0,2,1);
INSERT INTO stack_package VALUES(5,190,0,2,1);
INSERT INTO stack_package VALUES(5,191,0,2,1);
INSERT INTO stack_package VALUES(5,192,0,2,1);
INSERT INTO stack_package VALUES(5,193,0,2,1);
INSERT INTO stack_package VALUES(5,194,0,2,1);
INSERT INTO stack_package VALUES(5,195,0,2,1);
INSERT INTO stack_package VALUES(5,196,0,1,29);
INSERT INTO stack_package VALUES(5,197,0,1,30);
INSERT INTO stack_package VALUES(5,198,0,1,31);
INSERT INTO stack_package VALUES(5,199,0,1,32);
INSERT INTO stack_package VALUES(5,200,0,1,33);
INSERT INTO stack_package VALUES(5,201,0,1,34);
INSERT INTO stack_package VALUES(5,202,0,1,35);
INSERT INTO stack_package VALUES(5,202,178,2,36);
INSERT INTO stack_package VALUES(5,203,179,2,37);
INSERT INTO stack_package VALUES(5,204,180,2,38);
INSERT INTO stack_package VALUES(5,205,0,1,39);
INSERT INTO stack_package VALUES(5,206,0,1,40);
INSERT INTO stack_package VALUES(5,207,0,1,41);
INSERT INTO stack_package VALUES(5,208,182,2,42);
INSERT INTO stack_package VALUES(5,209,0,1,43);
INSERT INTO stack_package VALUES(5,210,0,1,44);
INSERT INTO stack_package VALUES(5,211,0,1,45);
INSERT INTO stack_package VALUES(5,212,0,1,46);
INSERT INTO stack_package VALUES(5,213,0,1,47);
INSERT INTO stack_package VALUES(5,214,187,2,48);
INSERT INTO stack_package VALUES(5,215,0,1,49);
INSERT INTO stack_package VALUES(5,216,189,2,50);
INSERT INTO stack_package VALUES(5,217,0,1,51);
INSERT INTO stack_package VALUES(5,218,190,2,52);
INSERT INTO stack_package VALUES(5,219,0,1,53);
CREATE TABLE verdict (
    id INTEGER PRIMARY KEY,
    package INTEGER NOT NULL,
    problem TEXT NOT NULL,
    -- Whether the package's distribution, which owns it, has no word on it.
    unassessed INTEGER NOT NULL,
    -- How bad, the worst first: 0 is critical.
    rank INTEGER NOT NULL,
    score REAL,
    status TEXT NOT NULL,
    fixed TEXT,
    summary TEXT NOT NULL,
    -- Every other name of the problem, one a line.
    aliases TEXT NOT NULL,
    UNIQUE (package, problem, unassessed)
) STRICT;
INSERT INTO verdict VALUES(186,166,'CVE-2025-15661',0,5,NULL,'fixed','1.10.0-3+deb12u1','','DEBIAN-CVE-2025-15661');
INSERT INTO verdict VALUES(187,166,'CVE-2026-58050',0,5,NULL,'fixed','1.10.0-3+deb12u1','','DEBIAN-CVE-2026-58050');
INSERT INTO verdict VALUES(188,166,'CVE-2026-58051',0,5,NULL,'fixed','1.10.0-3+deb12u1','','DEBIAN-CVE-2026-58051');
INSERT INTO verdict VALUES(189,166,'CVE-2026-66032',0,5,NULL,'fixed','1.10.0-3+deb12u1','','DEBIAN-CVE-2026-66032');
INSERT INTO verdict VALUES(190,166,'CVE-2026-66034',0,5,NULL,'fixed','1.10.0-3+deb12u1','','DEBIAN-CVE-2026-66034');
INSERT INTO verdict VALUES(191,166,'CVE-2026-7598',0,5,NULL,'fixed','1.10.0-3+deb12u1','','DEBIAN-CVE-2026-7598');
INSERT INTO verdict VALUES(192,167,'CVE-2022-2309',0,5,NULL,'fixed','2.9.14+dfsg-1.3','','DEBIAN-CVE-2022-2309');
INSERT INTO verdict VALUES(193,196,'CVE-2021-45115',0,5,NULL,'fixed','3.2.11','An issue was discovered in Django 2.2 before 2.2.26, 3.2 before 3.2.11, and 4.0 before 4.0.1. UserAttributeSimilarityValidator incurred significant overhead in evaluating a submitted password that was artificially large in relation to the comparison values. In a situation where access to user regist…',replace('GHSA-53qw-q765-4fww\nPYSEC-2022-1','\n',char(10)));
INSERT INTO verdict VALUES(194,196,'CVE-2021-45116',0,5,NULL,'fixed','3.2.11','An issue was discovered in Django 2.2 before 2.2.26, 3.2 before 3.2.11, and 4.0 before 4.0.1. Due to leveraging the Django Template Language''s variable resolution logic, the dictsort template filter was potentially vulnerable to information disclosure, or an unintended method call, if passed a suita…',replace('GHSA-8c5j-9r9f-c6w8\nPYSEC-2022-2','\n',char(10)));
INSERT INTO verdict VALUES(195,196,'CVE-2021-45452',0,5,NULL,'fixed','3.2.11','Storage.save in Django 2.2 before 2.2.26, 3.2 before 3.2.11, and 4.0 before 4.0.1 allows directory traversal if crafted filenames are directly passed to it.',replace('GHSA-jrh2-hc4r-7jwx\nPYSEC-2022-3','\n',char(10)));
INSERT INTO verdict VALUES(196,196,'CVE-2022-22818',0,5,NULL,'fixed','3.2.12','The {% debug %} template tag in Django 2.2 before 2.2.27, 3.2 before 3.2.12, and 4.0 before 4.0.2 does not properly encode the current context. This may lead to XSS.',replace('GHSA-95rw-fx8r-36v6\nPYSEC-2022-19','\n',char(10)));
INSERT INTO verdict VALUES(197,196,'CVE-2022-23833',0,5,NULL,'fixed','3.2.12','An issue was discovered in MultiPartParser in Django 2.2 before 2.2.27, 3.2 before 3.2.12, and 4.0 before 4.0.2. Passing certain inputs to multipart forms could result in an infinite loop when parsing files.',replace('GHSA-6cw3-g6wv-c2xv\nPYSEC-2022-20','\n',char(10)));
INSERT INTO verdict VALUES(198,196,'CVE-2022-28346',0,5,NULL,'fixed','3.2.13','An issue was discovered in Django 2.2 before 2.2.28, 3.2 before 3.2.13, and 4.0 before 4.0.4. QuerySet.annotate(), aggregate(), and extra() methods are subject to SQL injection in column aliases via a crafted dictionary (with dictionary expansion) as the passed **kwargs.',replace('GHSA-2gwj-7jmv-h26r\nPYSEC-2022-190','\n',char(10)));
INSERT INTO verdict VALUES(199,196,'CVE-2022-28347',0,5,NULL,'fixed','3.2.13','A SQL injection issue was discovered in QuerySet.explain() in Django 2.2 before 2.2.28, 3.2 before 3.2.13, and 4.0 before 4.0.4. This occurs by passing a crafted dictionary (with dictionary expansion) as the **options argument, and placing the injection payload in an option name.',replace('GHSA-w24h-v9qh-8gxj\nPYSEC-2022-191','\n',char(10)));
INSERT INTO verdict VALUES(200,196,'CVE-2022-34265',0,5,NULL,'fixed','3.2.14','An issue was discovered in Django 3.2 before 3.2.14 and 4.0 before 4.0.6. The Trunc() and Extract() database functions are subject to SQL injection if untrusted data is used as a kind/lookup_name value. Applications that constrain the lookup name and kind choice to a known safe list are unaffected.',replace('GHSA-p64x-8rxx-wf6q\nPYSEC-2022-213','\n',char(10)));
INSERT INTO verdict VALUES(201,196,'CVE-2022-36359',0,5,NULL,'fixed','3.2.15','An issue was discovered in the HTTP FileResponse class in Django 3.2 before 3.2.15 and 4.0 before 4.0.7. An application is vulnerable to a reflected file download (RFD) attack that sets the Content-Disposition header of a FileResponse when the filename is derived from user-supplied input.',replace('GHSA-8x94-hmjh-97hq\nPYSEC-2022-245','\n',char(10)));
INSERT INTO verdict VALUES(202,196,'CVE-2022-41323',0,5,NULL,'fixed','3.2.16','In Django 3.2 before 3.2.16, 4.0 before 4.0.8, and 4.1 before 4.1.2, internationalized URLs were subject to a potential denial of service attack via the locale parameter, which is treated as a regular expression.','PYSEC-2022-304');
INSERT INTO verdict VALUES(203,196,'CVE-2023-23969',0,5,NULL,'fixed','3.2.17','In Django 3.2 before 3.2.17, 4.0 before 4.0.9, and 4.1 before 4.1.6, the parsed values of Accept-Language headers are cached in order to avoid repetitive parsing. This leads to a potential denial-of-service vector via excessive memory usage if the raw value of Accept-Language headers is very large.','PYSEC-2023-12');
INSERT INTO verdict VALUES(204,196,'CVE-2023-24580',0,5,NULL,'fixed','3.2.18','An issue was discovered in the Multipart Request Parser in Django 3.2 before 3.2.18, 4.0 before 4.0.10, and 4.1 before 4.1.7. Passing certain inputs (e.g., an excessive number of parts) to multipart forms could result in too many open files or memory exhaustion, and provided a potential vector for a…','PYSEC-2023-13');
INSERT INTO verdict VALUES(205,196,'CVE-2023-31047',0,5,NULL,'fixed','3.2.19','In Django 3.2 before 3.2.19, 4.x before 4.1.9, and 4.2 before 4.2.1, it was possible to bypass validation when using one form field to upload multiple files. This multiple upload has never been supported by forms.FileField or forms.ImageField (only the last uploaded file was validated). However, Dja…','PYSEC-2023-61');
INSERT INTO verdict VALUES(206,196,'CVE-2023-36053',0,5,NULL,'fixed','3.2.20','In Django 3.2 before 3.2.20, 4 before 4.1.10, and 4.2 before 4.2.3, EmailValidator and URLValidator are subject to a potential ReDoS (regular expression denial of service) attack via a very large number of domain name labels of emails and URLs.','PYSEC-2023-100');
INSERT INTO verdict VALUES(207,196,'CVE-2023-41164',0,5,NULL,'fixed','3.2.21','In Django 3.2 before 3.2.21, 4.1 before 4.1.11, and 4.2 before 4.2.5, django.utils.encoding.uri_to_iri() is subject to a potential DoS (denial of service) attack via certain inputs with a very large number of Unicode characters.','PYSEC-2023-225');
INSERT INTO verdict VALUES(208,196,'CVE-2023-43665',0,5,NULL,'fixed','3.2.22','In Django 3.2 before 3.2.22, 4.1 before 4.1.12, and 4.2 before 4.2.6, the django.utils.text.Truncator chars() and words() methods (when used with html=True) are subject to a potential DoS (denial of service) attack via certain inputs with very long, potentially malformed HTML text. The chars() and w…','PYSEC-2023-226');
INSERT INTO verdict VALUES(209,196,'CVE-2023-46695',0,5,NULL,'fixed','3.2.23','An issue was discovered in Django 3.2 before 3.2.23, 4.1 before 4.1.13, and 4.2 before 4.2.7. The NFKC normalization is slow on Windows. As a consequence, django.contrib.auth.forms.UsernameField is subject to a potential DoS (denial of service) attack via certain inputs with a very large number of U…','PYSEC-2023-222');
INSERT INTO verdict VALUES(210,196,'CVE-2024-24680',0,5,NULL,'fixed','3.2.24','An issue was discovered in Django 3.2 before 3.2.24, 4.2 before 4.2.10, and Django 5.0 before 5.0.2. The intcomma template filter was subject to a potential denial-of-service attack when used with very long strings.','PYSEC-2024-28');
INSERT INTO verdict VALUES(211,196,'CVE-2024-27351',0,5,NULL,'fixed','3.2.25','In Django 3.2 before 3.2.25, 4.2 before 4.2.11, and 5.0 before 5.0.3, the django.utils.text.Truncator.words() method (with html=True) and the truncatewords_html template filter are subject to a potential regular expression denial-of-service attack via a crafted string. NOTE: this issue exists becaus…','PYSEC-2024-47');
INSERT INTO verdict VALUES(212,197,'CVE-2023-30861',0,5,NULL,'fixed','2.2.5','Flask is a lightweight WSGI web application framework. When all of the following conditions are met, a response containing data intended for one client may be cached and subsequently sent by the proxy to other clients. If the proxy also caches `Set-Cookie` headers, it may send one client''s `session`…',replace('GHSA-m2qf-hxjv-5gpq\nPYSEC-2023-62','\n',char(10)));
INSERT INTO verdict VALUES(213,198,'CVE-2020-28493',0,5,NULL,'fixed','2.11.3','This affects the package jinja2 from 0.0.0 and before 2.11.3. The ReDoS vulnerability is mainly due to the `_punctuation_re regex` operator and its use of multiple wildcards. The last wildcard is the most exploitable as it searches for trailing punctuation. This issue can be mitigated by Markdown to…',replace('GHSA-g3rq-g295-4j3m\nPYSEC-2021-66\nSNYK-PYTHON-JINJA2-1012994','\n',char(10)));
INSERT INTO verdict VALUES(214,200,'CVE-2023-44271',0,5,NULL,'fixed','10.0.0','An issue was discovered in Pillow before 10.0.0. It is a Denial of Service that uncontrollably allocates memory to process a given task, potentially causing a service to crash by having it run out of memory. This occurs for truetype in ImageFont when textlength in an ImageDraw instance operates on a…','PYSEC-2023-227');
INSERT INTO verdict VALUES(215,200,'PYSEC-2023-175',0,5,NULL,'fixed','10.0.1','Pillow versions before v10.0.1 bundled libwebp binaries in wheels that are vulnerable to CVE-2023-5129 (previously CVE-2023-4863). Pillow v10.0.1 upgrades the bundled libwebp binary to v1.3.2.','');
INSERT INTO verdict VALUES(216,201,'CVE-2022-29361',0,5,NULL,'fixed','2.1.1','** DISPUTED ** Improper parsing of HTTP requests in Pallets Werkzeug v2.1.0 and below allows attackers to perform HTTP Request Smuggling using a crafted HTTP request with multiple requests included inside the body. NOTE: the vendor''s position is that this behavior can only occur in unsupported confi…','PYSEC-2022-203');
INSERT INTO verdict VALUES(217,201,'CVE-2023-23934',0,5,NULL,'fixed','2.2.3','Werkzeug is a comprehensive WSGI web application library. Browsers may allow "nameless" cookies that look like `=value` instead of `key=value`. A vulnerable browser may allow a compromised application on an adjacent subdomain to exploit this to set a cookie like `=__Host-test=bad` for another subdom…',replace('GHSA-px8h-6qxv-m22q\nPYSEC-2023-57','\n',char(10)));
INSERT INTO verdict VALUES(218,201,'CVE-2023-25577',0,5,NULL,'fixed','2.2.3','Werkzeug is a comprehensive WSGI web application library. Prior to version 2.2.3, Werkzeug''s multipart form data parser will parse an unlimited number of parts, including file parts. Parts can be a small amount of bytes, but each requires CPU time to parse and may use more memory as Python data. If…',replace('GHSA-xg9f-g7g7-2323\nPYSEC-2023-58','\n',char(10)));
INSERT INTO verdict VALUES(219,201,'CVE-2023-46136',0,1,7.5,'fixed','2.3.8','Werkzeug is a comprehensive WSGI web application library. If an upload of a file that starts with CR or LF and then is followed by megabytes of data without these characters: all of these bytes are appended chunk by chunk into internal bytearray and lookup for boundary is performed on growing buffer…',replace('GHSA-hrfv-mqp8-q5rw\nPYSEC-2023-221','\n',char(10)));
INSERT INTO verdict VALUES(220,202,'CVE-2022-23491',0,5,NULL,'fixed','2022.12.7','Certifi is a curated collection of Root Certificates for validating the trustworthiness of SSL certificates while verifying the identity of TLS hosts. Certifi 2022.12.07 removes root certificates from "TrustCor" from the root store. These are in the process of being removed from Mozilla''s trust stor…',replace('GHSA-43fp-rhv2-5gv8\nPYSEC-2022-42986','\n',char(10)));
INSERT INTO verdict VALUES(221,202,'CVE-2023-37920',0,5,NULL,'fixed','2023.7.22','Certifi 2023.07.22 removes root certificates from "e-Tugra" from the root store. These are in the process of being removed from Mozilla''s trust store. e-Tugra''s root certificates are being removed pursuant to an investigation prompted by reporting of security issues in their systems.',replace('GHSA-xqr8-7jwr-rhp7\nPYSEC-2023-135','\n',char(10)));
INSERT INTO verdict VALUES(222,206,'CVE-2023-23931',0,5,NULL,'fixed','39.0.1','cryptography is a package designed to expose cryptographic primitives and recipes to Python developers. In affected versions `Cipher.update_into` would accept Python objects which implement the buffer protocol, but provide only immutable buffers. This would allow immutable objects (such as `bytes`)…',replace('GHSA-w7pp-m8wf-vj6r\nPYSEC-2023-11','\n',char(10)));
INSERT INTO verdict VALUES(223,206,'CVE-2023-49083',0,1,7.5,'fixed','41.0.6','cryptography is a package designed to expose cryptographic primitives and recipes to Python developers. Calling `load_pem_pkcs7_certificates` or `load_der_pkcs7_certificates` could lead to a NULL-pointer dereference and segfault. Exploitation of this vulnerability poses a serious risk of Denial of S…',replace('GHSA-jfhm-5ghh-2f97\nPYSEC-2023-254','\n',char(10)));
INSERT INTO verdict VALUES(224,207,'CVE-2024-3651',0,1,7.5,'fixed','3.7','A vulnerability was identified in the kjd/idna library, specifically within the `idna.encode()` function, affecting version 3.6. The issue arises from the function''s handling of crafted input strings, which can lead to quadratic complexity and consequently, a denial of service condition. This vulner…','PYSEC-2024-60');
INSERT INTO verdict VALUES(225,208,'CVE-2024-3651',0,1,7.5,'fixed','3.7','A vulnerability was identified in the kjd/idna library, specifically within the `idna.encode()` function, affecting version 3.6. The issue arises from the function''s handling of crafted input strings, which can lead to quadratic complexity and consequently, a denial of service condition. This vulner…','PYSEC-2024-60');
INSERT INTO verdict VALUES(226,212,'CVE-2023-5752',0,3,3.2999999999999998223,'fixed','23.3','When installing a package from a Mercurial VCS URL (ie "pip install hg+...") with pip prior to v23.3, the specified Mercurial revision could be used to inject arbitrary configuration options to the "hg clone" call (ie "--config"). Controlling the Mercurial configuration can modify how and which repo…','PYSEC-2023-228');
INSERT INTO verdict VALUES(227,213,'CVE-2023-32681',0,5,NULL,'fixed','2.31.0','Requests is a HTTP library. Since Requests 2.3.0, Requests has been leaking Proxy-Authorization headers to destination servers when redirected to an HTTPS endpoint. This is a product of how we use `rebuild_proxies` to reattach the `Proxy-Authorization` header to requests. For HTTP connections sent t…',replace('GHSA-j8r2-6x86-q33q\nPYSEC-2023-74','\n',char(10)));
INSERT INTO verdict VALUES(228,214,'CVE-2023-32681',0,5,NULL,'fixed','2.31.0','Requests is a HTTP library. Since Requests 2.3.0, Requests has been leaking Proxy-Authorization headers to destination servers when redirected to an HTTPS endpoint. This is a product of how we use `rebuild_proxies` to reattach the `Proxy-Authorization` header to requests. For HTTP connections sent t…',replace('GHSA-j8r2-6x86-q33q\nPYSEC-2023-74','\n',char(10)));
INSERT INTO verdict VALUES(229,217,'CVE-2023-30608',0,5,NULL,'fixed','0.4.4','sqlparse is a non-validating SQL parser module for Python. In affected versions the SQL parser contains a regular expression that is vulnerable to ReDoS (Regular Expression Denial of Service). This issue was introduced by commit `e75e358`. The vulnerability may lead to Denial of Service (DoS). This…',replace('GHSA-rrm6-wvj7-cwh2\nPYSEC-2023-87','\n',char(10)));
INSERT INTO verdict VALUES(230,219,'CVE-2021-33503',0,5,NULL,'fixed','1.26.5','An issue was discovered in urllib3 before 1.26.5. When provided with a URL containing many @ characters in the authority component, the authority regular expression exhibits catastrophic backtracking, causing a denial of service if a URL were passed as a parameter or redirected to via an HTTP redire…',replace('GHSA-q2q7-5pp4-w6pg\nPYSEC-2021-108','\n',char(10)));
INSERT INTO verdict VALUES(231,219,'CVE-2023-43804',0,1,8.0999999999999996447,'fixed','1.26.17','urllib3 is a user-friendly HTTP client library for Python. urllib3 doesn''t treat the `Cookie` HTTP header special or provide any helpers for managing cookies over HTTP, that is the responsibility of the user. However, it is possible for a user to specify a `Cookie` header and unknowingly leak inform…',replace('GHSA-v845-jxx5-vc9f\nPYSEC-2023-192','\n',char(10)));
INSERT INTO verdict VALUES(232,219,'CVE-2023-45803',0,2,4.2000000000000001776,'fixed','1.26.18','urllib3 is a user-friendly HTTP client library for Python. urllib3 previously wouldn''t remove the HTTP request body when an HTTP redirect response using status 301, 302, or 303 after the request had its method changed from one that could accept a request body (like `POST`) to `GET` as is required by…',replace('GHSA-g4mx-q9vg-27p4\nPYSEC-2023-212','\n',char(10)));
CREATE TABLE problem (
    name TEXT NOT NULL COLLATE NOCASE,
    verdict INTEGER NOT NULL REFERENCES verdict ON DELETE CASCADE,
    PRIMARY KEY (name, verdict)
) STRICT, WITHOUT ROWID;
INSERT INTO problem VALUES('CVE-2020-28493',213);
INSERT INTO problem VALUES('CVE-2021-33503',230);
INSERT INTO problem VALUES('CVE-2021-45115',193);
INSERT INTO problem VALUES('CVE-2021-45116',194);
INSERT INTO problem VALUES('CVE-2021-45452',195);
INSERT INTO problem VALUES('CVE-2022-22818',196);
INSERT INTO problem VALUES('CVE-2022-2309',192);
INSERT INTO problem VALUES('CVE-2022-23491',220);
INSERT INTO problem VALUES('CVE-2022-23833',197);
INSERT INTO problem VALUES('CVE-2022-28346',198);
INSERT INTO problem VALUES('CVE-2022-28347',199);
INSERT INTO problem VALUES('CVE-2022-29361',216);
INSERT INTO problem VALUES('CVE-2022-34265',200);
INSERT INTO problem VALUES('CVE-2022-36359',201);
INSERT INTO problem VALUES('CVE-2022-41323',202);
INSERT INTO problem VALUES('CVE-2023-23931',222);
INSERT INTO problem VALUES('CVE-2023-23934',217);
INSERT INTO problem VALUES('CVE-2023-23969',203);
INSERT INTO problem VALUES('CVE-2023-24580',204);
INSERT INTO problem VALUES('CVE-2023-25577',218);
INSERT INTO problem VALUES('CVE-2023-30608',229);
INSERT INTO problem VALUES('CVE-2023-30861',212);
INSERT INTO problem VALUES('CVE-2023-31047',205);
INSERT INTO problem VALUES('CVE-2023-32681',227);
INSERT INTO problem VALUES('CVE-2023-32681',228);
INSERT INTO problem VALUES('CVE-2023-36053',206);
INSERT INTO problem VALUES('CVE-2023-37920',221);
INSERT INTO problem VALUES('CVE-2023-41164',207);
INSERT INTO problem VALUES('CVE-2023-43665',208);
INSERT INTO problem VALUES('CVE-2023-43804',231);
INSERT INTO problem VALUES('CVE-2023-44271',214);
INSERT INTO problem VALUES('CVE-2023-45803',232);
INSERT INTO problem VALUES('CVE-2023-46136',219);
INSERT INTO problem VALUES('CVE-2023-46695',209);
INSERT INTO problem VALUES('CVE-2023-49083',223);
INSERT INTO problem VALUES('CVE-2023-5752',226);
INSERT INTO problem VALUES('CVE-2024-24680',210);
INSERT INTO problem VALUES('CVE-2024-27351',211);
INSERT INTO problem VALUES('CVE-2024-3651',224);
INSERT INTO problem VALUES('CVE-2024-3651',225);
INSERT INTO problem VALUES('CVE-2025-15661',186);
INSERT INTO problem VALUES('CVE-2026-58050',187);
INSERT INTO problem VALUES('CVE-2026-58051',188);
INSERT INTO problem VALUES('CVE-2026-66032',189);
INSERT INTO problem VALUES('CVE-2026-66034',190);
INSERT INTO problem VALUES('CVE-2026-7598',191);
INSERT INTO problem VALUES('DEBIAN-CVE-2022-2309',192);
INSERT INTO problem VALUES('DEBIAN-CVE-2025-15661',186);
INSERT INTO problem VALUES('DEBIAN-CVE-2026-58050',187);
INSERT INTO problem VALUES('DEBIAN-CVE-2026-58051',188);
INSERT INTO problem VALUES('DEBIAN-CVE-2026-66032',189);
INSERT INTO problem VALUES('DEBIAN-CVE-2026-66034',190);
INSERT INTO problem VALUES('DEBIAN-CVE-2026-7598',191);
INSERT INTO problem VALUES('GHSA-2gwj-7jmv-h26r',198);
INSERT INTO problem VALUES('GHSA-43fp-rhv2-5gv8',220);
INSERT INTO problem VALUES('GHSA-53qw-q765-4fww',193);
INSERT INTO problem VALUES('GHSA-6cw3-g6wv-c2xv',197);
INSERT INTO problem VALUES('GHSA-8c5j-9r9f-c6w8',194);
INSERT INTO problem VALUES('GHSA-8x94-hmjh-97hq',201);
INSERT INTO problem VALUES('GHSA-95rw-fx8r-36v6',196);
INSERT INTO problem VALUES('GHSA-g3rq-g295-4j3m',213);
INSERT INTO problem VALUES('GHSA-g4mx-q9vg-27p4',232);
INSERT INTO problem VALUES('GHSA-hrfv-mqp8-q5rw',219);
INSERT INTO problem VALUES('GHSA-j8r2-6x86-q33q',227);
INSERT INTO problem VALUES('GHSA-j8r2-6x86-q33q',228);
INSERT INTO problem VALUES('GHSA-jfhm-5ghh-2f97',223);
INSERT INTO problem VALUES('GHSA-jrh2-hc4r-7jwx',195);
INSERT INTO problem VALUES('GHSA-m2qf-hxjv-5gpq',212);
INSERT INTO problem VALUES('GHSA-p64x-8rxx-wf6q',200);
INSERT INTO problem VALUES('GHSA-px8h-6qxv-m22q',217);
INSERT INTO problem VALUES('GHSA-q2q7-5pp4-w6pg',230);
INSERT INTO problem VALUES('GHSA-rrm6-wvj7-cwh2',229);
INSERT INTO problem VALUES('GHSA-v845-jxx5-vc9f',231);
INSERT INTO problem VALUES('GHSA-w24h-v9qh-8gxj',199);
INSERT INTO problem VALUES('GHSA-w7pp-m8wf-vj6r',222);
INSERT INTO problem VALUES('GHSA-xg9f-g7g7-2323',218);
INSERT INTO problem VALUES('GHSA-xqr8-7jwr-rhp7',221);
INSERT INTO problem VALUES('PYSEC-2021-108',230);
INSERT INTO problem VALUES('PYSEC-2021-66',213);
INSERT INTO problem VALUES('PYSEC-2022-1',193);
INSERT INTO problem VALUES('PYSEC-2022-19',196);
INSERT INTO problem VALUES('PYSEC-2022-190',198);
INSERT INTO problem VALUES('PYSEC-2022-191',199);
INSERT INTO problem VALUES('PYSEC-2022-2',194);
INSERT INTO problem VALUES('PYSEC-2022-20',197);
INSERT INTO problem VALUES('PYSEC-2022-203',216);
INSERT INTO problem VALUES('PYSEC-2022-213',200);
INSERT INTO problem VALUES('PYSEC-2022-245',201);
INSERT INTO problem VALUES('PYSEC-2022-3',195);
INSERT INTO problem VALUES('PYSEC-2022-304',202);
INSERT INTO problem VALUES('PYSEC-2022-42986',220);
INSERT INTO problem VALUES('PYSEC-2023-100',206);
INSERT INTO problem VALUES('PYSEC-2023-11',222);
INSERT INTO problem VALUES('PYSEC-2023-12',203);
INSERT INTO problem VALUES('PYSEC-2023-13',204);
INSERT INTO problem VALUES('PYSEC-2023-135',221);
INSERT INTO problem VALUES('PYSEC-2023-175',215);
INSERT INTO problem VALUES('PYSEC-2023-192',231);
INSERT INTO problem VALUES('PYSEC-2023-212',232);
INSERT INTO problem VALUES('PYSEC-2023-221',219);
INSERT INTO problem VALUES('PYSEC-2023-222',209);
INSERT INTO problem VALUES('PYSEC-2023-225',207);
INSERT INTO problem VALUES('PYSEC-2023-226',208);
INSERT INTO problem VALUES('PYSEC-2023-227',214);
INSERT INTO problem VALUES('PYSEC-2023-228',226);
INSERT INTO problem VALUES('PYSEC-2023-254',223);
INSERT INTO problem VALUES('PYSEC-2023-57',217);
INSERT INTO problem VALUES('PYSEC-2023-58',218);
INSERT INTO problem VALUES('PYSEC-2023-61',205);
INSERT INTO problem VALUES('PYSEC-2023-62',212);
INSERT INTO problem VALUES('PYSEC-2023-74',227);
INSERT INTO problem VALUES('PYSEC-2023-74',228);
INSERT INTO problem VALUES('PYSEC-2023-87',229);
INSERT INTO problem VALUES('PYSEC-2024-28',210);
INSERT INTO problem VALUES('PYSEC-2024-47',211);
INSERT INTO problem VALUES('PYSEC-2024-60',224);
INSERT INTO problem VALUES('PYSEC-2024-60',225);
INSERT INTO problem VALUES('SNYK-PYTHON-JINJA2-1012994',213);
CREATE TABLE finding (
    stack INTEGER NOT NULL REFERENCES stack ON DELETE CASCADE,
    verdict INTEGER NOT NULL,
    opened INTEGER NOT NULL,
    closed INTEGER,
    PRIMARY KEY (stack, verdict, opened)
) STRICT, WITHOUT ROWID;
INSERT INTO finding VALUES(4,186,1795960913,NULL);
INSERT INTO finding VALUES(4,187,1795960913,NULL);
INSERT INTO finding VALUES(4,188,1795960913,NULL);
INSERT INTO finding VALUES(4,189,1795960913,NULL);
INSERT INTO finding VALUES(4,190,1795960913,NULL);
INSERT INTO finding VALUES(4,191,1795960913,NULL);
INSERT INTO finding VALUES(4,192,1795960913,NULL);
INSERT INTO finding VALUES(5,193,1795960913,NULL);
INSERT INTO finding VALUES(5,194,1795960913,NULL);
INSERT INTO finding VALUES(5,195,1795960913,NULL);
INSERT INTO finding VALUES(5,196,1795960913,NULL);
INSERT INTO finding VALUES(5,197,1795960913,NULL);
INSERT INTO finding VALUES(5,198,1795960913,NULL);
INSERT INTO finding VALUES(5,199,1795960913,NULL);
INSERT INTO finding VALUES(5,200,1795960913,NULL);
INSERT INTO finding VALUES(5,201,1795960913,NULL);
INSERT INTO finding VALUES(5,202,1795960913,NULL);
INSERT INTO finding VALUES(5,203,1795960913,NULL);
INSERT INTO finding VALUES(5,204,1795960913,NULL);
INSERT INTO finding VALUES(5,205,1795960913,NULL);
INSERT INTO finding VALUES(5,206,1795960913,NULL);
INSERT INTO finding VALUES(5,207,1795960913,NULL);
INSERT INTO finding VALUES(5,208,1795960913,NULL);
INSERT INTO finding VALUES(5,209,1795960913,NULL);
INSERT INTO finding VALUES(5,210,1795960913,NULL);
INSERT INTO finding VALUES(5,211,1795960913,NULL);
INSERT INTO finding VALUES(5,212,1795960913,NULL);
INSERT INTO finding VALUES(5,213,1795960913,NULL);
INSERT INTO finding VALUES(5,214,1795960913,NULL);
INSERT INTO finding VALUES(5,215,1795960913,NULL);
INSERT INTO finding VALUES(5,216,1795960913,NULL);
INSERT INTO finding VALUES(5,217,1795960913,NULL);
INSERT INTO finding VALUES(5,218,1795960913,NULL);
INSERT INTO finding VALUES(5,219,1795960913,NULL);
INSERT INTO finding VALUES(5,220,1795960913,NULL);
INSERT INTO finding VALUES(5,221,1795960913,NULL);
INSERT INTO finding VALUES(5,222,1795960913,NULL);
INSERT INTO finding VALUES(5,223,1795960913,NULL);
INSERT INTO finding VALUES(5,224,1795960913,NULL);
INSERT INTO finding VALUES(5,225,1795960913,NULL);
INSERT INTO finding VALUES(5,226,1795960913,NULL);
INSERT INTO finding VALUES(5,227,1795960913,NULL);
INSERT INTO finding VALUES(5,228,1795960913,NULL);
INSERT INTO finding VALUES(5,229,1795960913,NULL);
INSERT INTO finding VALUES(5,230,1795960913,NULL);
INSERT INTO finding VALUES(5,231,1795960913,NULL);
INSERT INTO finding VALUES(5,232,1795960913,NULL);
CREATE TABLE subject (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO subject VALUES(3,'node-1/k8s.io/demo-python-app');
INSERT INTO subject VALUES(5,'node-1/k8s.io/demo-layers');
CREATE TABLE run (
    subject INTEGER NOT NULL REFERENCES subject ON DELETE CASCADE,
    stack INTEGER NOT NULL REFERENCES stack ON DELETE CASCADE,
    since INTEGER NOT NULL,
    until INTEGER,
    PRIMARY KEY (subject, stack, since)
) STRICT, WITHOUT ROWID;
INSERT INTO run VALUES(5,4,1795960910,NULL);
INSERT INTO run VALUES(3,5,1795960910,NULL);
CREATE TABLE rematch (
    id INTEGER PRIMARY KEY,
    database BLOB NOT NULL,
    at INTEGER NOT NULL,
    seconds REAL,
    stacks INTEGER NOT NULL DEFAULT 0,
    appeared INTEGER NOT NULL DEFAULT 0,
    went INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO rematch VALUES(1,X'7e7a0e3c229bbd1a3db1761d5ef4bd20aecc5f47226e6b3778d3808008c47343',1795960178,0.001106381000000000031,0,0,0);
CREATE INDEX package_name ON package (name COLLATE NOCASE);
CREATE INDEX package_short ON package (short COLLATE NOCASE);
CREATE INDEX package_order ON package (name, version, id);
CREATE INDEX package_purl ON package (purl);
CREATE INDEX stack_package_by_package ON stack_package (package, stack);
CREATE INDEX verdict_order ON verdict (rank, problem, id);
CREATE INDEX finding_by_verdict ON finding (verdict, stack);
CREATE INDEX run_open ON run (subject, stack) WHERE until IS NULL;
CREATE INDEX run_by_stack ON run (stack, until);
COMMIT;
