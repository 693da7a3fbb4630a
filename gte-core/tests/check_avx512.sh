#!/usr/bin/env bash
# Runs the kernel tests on an emulated CPU with AVX-512, for machines without it: Bochs boots a
# Debian kernel whose initial file system is the test binary. It is slow and exact, and takes some
# minutes. Needs root for apt-get, or the packages already installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v bochs xorriso busybox cpio >/dev/null || [ ! -e /usr/lib/ISOLINUX/isolinux.bin ]; then
  apt-get update -q
  apt-get install -y -q bochs bochs-term bochsbios vgabios xorriso isolinux syslinux-common busybox-static cpio
fi
work=target/check-avx512
rm -rf "$work/root" "$work/iso"
mkdir -p "$work/root/bin" "$work/iso"

# The kernel comes from its package, which is not installed.
if [ ! -e "$work/vmlinuz" ]; then
  package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
  (cd "$work" && apt-get download -q "$package" && dpkg -x "$package"_*.deb kernel && cp kernel/boot/vmlinuz-* vmlinuz && rm -rf kernel ./*.deb)
fi

# The test binary and the libraries it needs.
binary=${BINARY:-$(cargo test --release --workspace --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\/gte_core-[^"]*\)".*/\1/p' | tail -n 1)}
strip -o "$work/root/tests" "$binary"
for library in $(ldd "$binary" | grep -o '/[^ ]*'); do
  mkdir -p "$work/root$(dirname "$library")"
  cp -L "$library" "$work/root$library"
done
cp "$(command -v busybox)" "$work/root/bin/busybox"
cat >"$work/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /tmp /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
export GTE_REQUIRE_ISA=scalar,x86_64-avx2,x86_64-avx512 PROPTEST_CASES=${CASES:-12} RAYON_NUM_THREADS=1
exec >/dev/ttyS0 2>&1
/bin/busybox grep -o -m1 'avx512[a-z_]*' /proc/cpuinfo
(/tests kernels --test-threads 1 2>&1; echo "exit status $?") >/tmp/log
/bin/busybox head -n 60 /tmp/log
/bin/busybox tail -n 1 /tmp/log
# The serial line is slower than the shutdown.
/bin/busybox sleep 5
/bin/busybox poweroff -f
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/iso/initrd"
cp "$work/vmlinuz" "$work/iso/"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/"
# Without the compacted form of xsave: the emulator's size differs from what the kernel computes.
printf 'DEFAULT t\nPROMPT 0\nLABEL t\n KERNEL vmlinuz\n APPEND initrd=initrd console=ttyS0 quiet clearcpuid=xsavec,xsaves mitigations=off nokaslr tsc=reliable\n' >"$work/iso/isolinux.cfg"
xorriso -as mkisofs -quiet -o "$work/test.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table "$work/iso"

cat >"$work/bochsrc" <<BOCHS
megs: 1024
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path=$work/test.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
display_library: term
plugin_ctrl: speaker=0, extfpuirq=0, parallel=0, gameport=0
log: $work/bochs.log
panic: action=fatal
BOCHS
: >"$work/serial.txt"
# Bochs needs a terminal of some size as its display; `c` starts the machine.
echo c >"$work/start"
TERM=xterm timeout "${LIMIT:-1500}" script -q -c "stty rows 50 cols 132; bochs -q -f $work/bochsrc -rc $work/start" /dev/null >/dev/null 2>&1 </dev/null || true
cat "$work/serial.txt"
grep -q '^exit status 0' "$work/serial.txt"
