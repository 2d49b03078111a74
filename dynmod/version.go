package dynmod

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// ABI is the version of Envoy's dynamic modules ABI that the module speaks.
const ABI = "v0.2.0"

// Tried are the versions of Envoy that were seen to work with the module: docs/envoy-module.md.
const Tried = "1.40"

// abiVersion is how an ABI's version stands in Envoy's program: by itself, as it is compared with the module's.
var abiVersion = regexp.MustCompile(`\x00(v0\.[0-9]{1,4}\.[0-9]{1,4})\x00`)

// checkEnvoy says what is wrong with the Envoy whose program is given. Envoy itself only warns, and calls a module that speaks another version.
func checkEnvoy(program string) error {
	advice := fmt.Sprintf("this libgatehouse.so is for dynamic modules ABI %s (Envoy %s): use that Envoy, or the libgatehouse.so for yours, or set any_envoy: true in "+
		"filter_config if you have tested it", ABI, Tried)
	found, err := abiOf(program)
	switch {
	case err != nil:
		return fmt.Errorf("which dynamic modules ABI this Envoy has cannot be found out: %w\n%s", err, advice)
	case !slices.Contains(found, ABI):
		return fmt.Errorf("this Envoy has dynamic modules ABI %s\n%s", cmp.Or(strings.Join(found, " or "), "none, or an old one"), advice)
	}
	return nil
}

const chunk = 1 << 20

// abiOf looks through a program for the version of its ABI. It is read piece by piece, as it has a hundred megabytes.
func abiOf(program string) (found []string, err error) {
	f, err := os.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const longest = 16
	buf := make([]byte, longest+chunk)
	kept := 0
	for {
		n, err := io.ReadFull(f, buf[kept:])
		seen := buf[:kept+n]
		for at := 0; ; {
			next := bytes.Index(seen[at:], []byte("\x00v0."))
			if next < 0 {
				break
			}
			at += next
			if m := abiVersion.FindSubmatch(seen[at:min(len(seen), at+longest)]); m != nil && !slices.Contains(found, string(m[1])) {
				found = append(found, string(m[1]))
			}
			at++
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		kept = copy(buf, seen[max(0, len(seen)-longest):])
	}
}
