package bundles_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"gatehouse/bundles"
	"gatehouse/policy/bundle"
)

// item is an entry of a tarball.
type item struct {
	name, content string
	kind          byte   // default: a file
	target        string // of a link
}

// tarball packs items in their order.
func tarball(t testing.TB, items ...item) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, i := range items {
		h := &tar.Header{Name: i.name, Mode: 0o644, Size: int64(len(i.content)), Typeflag: i.kind, Linkname: i.target}
		if i.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if i.kind == tar.TypeXGlobalHeader {
			h = &tar.Header{Name: i.name, Typeflag: i.kind, PAXRecords: map[string]string{"comment": "4b825dc642cb6eb9"}}
		}
		must(t, w.WriteHeader(h))
		_, err := w.Write([]byte(i.content))
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}

func zipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(content)
	must(t, err)
	must(t, w.Close())
	return out.Bytes()
}

// packed returns a bundle tarball of these files.
func packed(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var items []item
	for _, name := range slices.Sorted(maps.Keys(files)) {
		items = append(items, item{name: name, content: files[name]})
	}
	return zipped(t, tarball(t, items...))
}

func TestUnpack(t *testing.T) {
	plain := []item{{name: "a/b.rego", content: "package b"}, {name: ".manifest", content: "{}"}}
	tests := map[string][]byte{
		"as written":              zipped(t, tarball(t, plain...)),
		"plain tar":               tarball(t, plain...),
		"tar's own names":         zipped(t, tarball(t, item{name: "./", kind: tar.TypeDir}, item{name: "./a/", kind: tar.TypeDir}, item{name: "./a/b.rego", content: "package b"}, item{name: "./.manifest", content: "{}"})),
		"OPA's names":             zipped(t, tarball(t, item{name: "/a/b.rego", content: "package b"}, item{name: "/.manifest", content: "{}"})),
		"a commit's comment":      zipped(t, tarball(t, append([]item{{name: "pax_global_header", kind: tar.TypeXGlobalHeader}}, plain...)...)),
		"padded to a tape record": zipped(t, append(tarball(t, plain...), make([]byte, 10240)...)),
		"in two gzip members":     append(zipped(t, tarball(t, plain...)[:700]), zipped(t, tarball(t, plain...)[700:])...),
		"a folder named twice":    zipped(t, tarball(t, append([]item{{name: "a", kind: tar.TypeDir}, {name: "a/", kind: tar.TypeDir}}, plain...)...)),
	}
	for name, raw := range tests {
		t.Run(name, func(t *testing.T) {
			files, digest, err := bundles.UnpackFrom("app", bytes.NewReader(raw), bundle.Limits{})
			must(t, err)
			if len(files) != 2 || string(files["a/b.rego"]) != "package b" || string(files[".manifest"]) != "{}" {
				t.Errorf("files %q", files)
			}
			if sum := sha256.Sum256(raw); digest != hex.EncodeToString(sum[:]) {
				t.Errorf("digest %s", digest)
			}
		})
	}
}

func TestUnpackRefuses(t *testing.T) {
	rule := item{name: "a.rego", content: "package a"}
	whole := tarball(t, rule, item{name: "b.rego", content: "package b"})
	archive := zipped(t, whole)
	of := func(items ...item) []byte { return zipped(t, tarball(t, items...)) }
	damaged := slices.Clone(archive)
	damaged[len(damaged)-6] ^= 1
	tests := []struct {
		name      string
		raw       []byte
		complaint string
	}{
		{"nothing", nil, "cut off"},
		{"no archive", []byte(strings.Repeat("package a\n", 100)), "not a bundle"},
		{"a zip file", append([]byte("PK\x03\x04"), make([]byte, 600)...), "not a bundle"},
		{"gzip of something else", zipped(t, []byte(strings.Repeat("package a\n", 100))), "not a bundle"},
		{"gzip cut off", archive[:len(archive)-9], "cut off"},
		{"gzip without its checksum", archive[:len(archive)-8], "cut off"},
		{"a wrong checksum", damaged, "checksum does not match"},
		{"something behind the gzip", append(slices.Clone(archive), "more than a header"...), "not gzip from its beginning to its end"},
		{"something behind the tar", zipped(t, append(slices.Clone(whole), "rest"...)), "something follows the archive's end"},
		{"a second tar behind the first", zipped(t, append(slices.Clone(whole), whole...)), "something follows the archive's end"},
		{"a tar cut off between two files", whole[:1024], "no end mark"},
		{"a tar cut off after one zero block", whole[:2048+512], "no end mark"},
		{"a tar cut off within a file", whole[:515], "cut off"},
		{"no file", of(item{name: "a/", kind: tar.TypeDir}), "holds no file"},
		{"a climbing name", of(item{name: "../a.rego"}), `"../a.rego" is not a plain path`},
		{"a name that climbs in the middle", of(item{name: "a/../../b.rego"}), "is not a plain path"},
		{"an absolute name", of(item{name: "//etc/passwd"}), "is not a plain path"},
		{"an absolute name after a dot", of(item{name: ".//etc/passwd"}), "is not a plain path"},
		{"a double slash", of(item{name: "a//b.rego"}), "is not a plain path"},
		{"a dot within", of(item{name: "a/./b.rego"}), "is not a plain path"},
		{"a drive's name", of(item{name: `C:\a.rego`}), "is not a plain path"},
		{"a control character", of(item{name: "a\nb.rego"}), "is not printable text"},
		{"broken UTF-8", of(item{name: "a\xff.rego"}), "is not printable text"},
		{"a long name", of(item{name: strings.Repeat("a/", 600) + "b"}), "longer than 1024 bytes"},
		{"a deep name", of(item{name: strings.Repeat("a/", 40) + "b"}), "more than 32 folders deep"},
		{"a symbolic link", of(rule, item{name: "b.rego", kind: tar.TypeSymlink, target: "/etc/passwd"}), "b.rego: a link"},
		{"a hard link", of(rule, item{name: "b.rego", kind: tar.TypeLink, target: "a.rego"}), "b.rego: a link"},
		{"a device", of(item{name: "b.rego", kind: tar.TypeChar}), "b.rego: neither a file nor a folder"},
		{"a pipe", of(item{name: "b.rego", kind: tar.TypeFifo}), "b.rego: neither a file nor a folder"},
		{"a name that is there twice", of(rule, rule), "a.rego: there twice"},
		{"a name that is there twice in two spellings", of(rule, item{name: "./a.rego"}), "a.rego: there twice"},
		{"OPA's spelling of the same name", of(rule, item{name: "/a.rego"}), "a.rego: there twice"},
		{"a file above a file", of(rule, item{name: "a.rego/b.rego"}), "a.rego: both a file and a folder"},
		{"a folder, then a file", of(item{name: "a/b.rego"}, item{name: "a"}), "a: both a file and a folder"},
		{"a file without a name", of(item{name: "."}), "a file has no name"},
		{"many files", of(item{name: "1"}, item{name: "2"}, item{name: "3"}, item{name: "4"}), "more than 3 files and folders"},
		{"a large file", of(item{name: "a", content: strings.Repeat("x", 5001)}), "a: larger than 5000 bytes"},
		{"large together", of(item{name: "a", content: strings.Repeat("x", 4000)}, item{name: "b", content: strings.Repeat("x", 4000)}), "b: all files together are larger than 6000 bytes"},
		{"a bomb behind the end", zipped(t, append(slices.Clone(whole), make([]byte, 4<<20)...)), "unpacks to more than"},
		{"gzip in gzip", zipped(t, archive), "cut off"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files, _, err := bundles.UnpackFrom("app", bytes.NewReader(test.raw), bundle.Limits{Files: 3, File: 5000, Total: 6000})
			var problems bundle.Problems
			if err == nil || files != nil || !errors.As(err, &problems) {
				t.Fatalf("files %q, error %v", files, err)
			}
			if text := err.Error(); !strings.HasPrefix(text, `reading bundle "app": `) || !strings.Contains(text, test.complaint) {
				t.Errorf("error %q, want %q in it", text, test.complaint)
			}
		})
	}
}

// No prefix of a bundle is a valid smaller bundle.
func TestUnpackRefusesEveryPrefix(t *testing.T) {
	plain := tarball(t, item{name: "a.rego", content: "package a"}, item{name: "zeros", content: string(make([]byte, 2000))})
	for kind, raw := range map[string][]byte{"plain": plain, "gzip": zipped(t, plain)} {
		for n := range len(raw) {
			if files, _, err := bundles.UnpackFrom("app", bytes.NewReader(raw[:n]), bundle.Limits{}); err == nil {
				t.Fatalf("%s: the first %d of %d bytes gave %d files", kind, n, len(raw), len(files))
			}
		}
	}
}

func FuzzUnpack(f *testing.F) {
	plain := tarball(f, item{name: "./a/", kind: tar.TypeDir}, item{name: "./a/b.rego", content: "package b"})
	f.Add(plain)
	f.Add(zipped(f, plain))
	f.Add(zipped(f, tarball(f, item{name: "../a.rego"}, item{name: "a", kind: tar.TypeSymlink, target: "/etc"})))
	f.Add(bytes.Repeat([]byte{0}, 2048))
	limits := bundle.Limits{Files: 20, File: 10_000, Total: 20_000, Depth: 3}
	f.Fuzz(func(t *testing.T, raw []byte) {
		files, digest, err := bundles.UnpackFrom("app", bytes.NewReader(raw), limits)
		if err != nil {
			var problems bundle.Problems
			if files != nil || !errors.As(err, &problems) {
				t.Fatalf("%d files next to error %v", len(files), err)
			}
			return
		}
		total := 0
		for name, content := range files {
			if !fs.ValidPath(name) || name == "." || strings.Count(name, "/") > limits.Depth || len(content) > int(limits.File) {
				t.Errorf("file %q of %d bytes", name, len(content))
			}
			total += len(content)
		}
		if len(files) == 0 || len(files) > limits.Files || total > int(limits.Total) || digest != fmt.Sprintf("%x", sha256.Sum256(raw)) {
			t.Errorf("%d files of %d bytes, digest %s", len(files), total, digest)
		}
	})
}
