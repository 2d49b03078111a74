package record

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"gatehouse/input"
)

// TestVersion1 reads entries that an earlier release packed, and makes the lines of them that it made.
func TestVersion1(t *testing.T) {
	text, err := os.ReadFile("testdata/packed-version-1.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []struct{ Name, Packed, Line string }
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	for _, tt := range recorded {
		t.Run(tt.Name, func(t *testing.T) {
			packed, err := base64.StdEncoding.DecodeString(tt.Packed)
			if err != nil {
				t.Fatal(err)
			}
			c, _ := testCodec()
			line, err := c.appendLine(nil, packed)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(decodeLine(t, line), decodeLine(t, []byte(tt.Line))) {
				t.Errorf("is  %s\nwas %s", line, tt.Line)
			}
			compareLines(t, c, packed)
			packed[0]++
			if line, err := c.appendLine(nil, packed); err == nil {
				t.Errorf("an entry of a later version is read as %s", line)
			}
		})
	}
}

// TestFlags holds the table's flags against those of the packed entry.
func TestFlags(t *testing.T) {
	for flag, bit := range map[uint64]input.Bit{flagAuthenticated: input.BitAuthenticated, flagTLS: input.BitTLS, flagTruncated: input.BitTruncated,
		flagMatched: input.BitMatched, flagSource: input.BitSource, flagDestination: input.BitDestination, flagRedirect: input.BitRedirect} {
		if flag != 1<<bit {
			t.Errorf("flag %x is bit %d in the table", flag, bit)
		}
	}
}
