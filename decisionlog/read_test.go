package decisionlog_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/decisionlog/read"
)

// told is what a reader says: the ids of events, "gap", and damage after an exclamation mark, with the file's name alone.
func told(t testing.TB, path string, stdin io.Reader) (all []string) {
	t.Helper()
	r, err := read.OpenReader(path, stdin)
	if err != nil {
		return []string{"! " + short(err)}
	}
	defer r.Close()
	for {
		event, err := r.Next()
		damage, damaged := errors.AsType[*read.DamageError](err)
		switch {
		case errors.Is(err, io.EOF):
			return all
		case damaged:
			damage.File = filepath.Base(damage.File)
			all = append(all, "! "+damage.Error())
		case err != nil:
			return append(all, "! "+short(err))
		default:
			all = append(all, name(event))
		}
		if len(all) > 100_000 {
			t.Fatal("the reader comes to no end")
		}
	}
}

func short(err error) string {
	text, _, _ := strings.Cut(err.Error(), "; expected")
	return text
}

func name(event []byte) string {
	if rest, ours := bytes.CutPrefix(event, []byte(`{"decision_id":"`)); ours && event[len(event)-1] == '}' && !bytes.Contains(rest, []byte(`"decision_id"`)) {
		id, _, _ := bytes.Cut(rest, []byte(`"`))
		return string(id) // most of what is read here
	}
	var is struct {
		ID  string          `json:"decision_id"`
		Gap json.RawMessage `json:"gap"`
	}
	switch err := json.Unmarshal(event, &is); {
	case err != nil:
		return "broken"
	case is.Gap != nil:
		return "gap"
	}
	return is.ID
}

func zip(parts ...string) string {
	var b bytes.Buffer
	for _, part := range parts {
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(part))
		z.Close()
	}
	return b.String()
}

// garble is not compressible, and no JSON.
func garble(n int) string {
	b := make([]byte, n)
	for i, x := 0, uint32(1); i < n; i++ {
		x = x*1664525 + 1013904223
		b[i] = 'A' + byte(x>>24)%26
	}
	return string(b)
}

func event(id string) string { return `{"decision_id":"` + id + `","x":"{[\"}"}` }

func TestReadText(t *testing.T) {
	a, b, c := event("a"), event("b"), event("c")
	opa := func(id string) string { return `{"labels":{"id":"x"},"decision_id":"` + id + `","path":"a/b"}` }
	long := `{"decision_id":"long","x":"` + garble(17<<20) + `"}`
	broken := zip(a + "\n" + b + "\n" + garble(100_000))
	for _, tt := range []struct{ what, text, want string }{
		{"nothing", "", ""},
		{"lines", a + "\n" + b + "\n", "a b"},
		{"no end", a + "\n" + b, "a b"},
		{"windows", "\xef\xbb\xbf" + a + "\r\n\r\n" + b + "\r\n", "a b"},
		{"gap", a + "\n" + `{"gap":{"dropped":3}}` + "\n" + `{"labels":{"a":"b"},"gap":{"dropped":3}}`, "a gap gap"},
		{"opa console", `{"level":"info","msg":"Initializing server."}` + "\n" + `{"decision_id":"a","msg":"Decision Log","type":"openpolicyagent.org/decision_logs"}`, "a"},
		{"pretty", "{\n  \"decision_id\": \"a\",\n  \"x\": {}\n}\n" + b, "a b"},
		{"cut off", a + "\n" + b[:20], "a|! log:2: half a line of JSON (20 bytes)"},
		{"torn", a + "\n" + b[:20] + c + "\n" + c + "\n", "a broken c"},
		{"text between", a + "\nhello\n" + b, "a|! log:2: a line that is no JSON object (6 bytes)|b"},
		{"zeros before", "\x00\x00\x00" + a + "\n" + b, "! log:1: zeros (3 bytes)|a b"},
		{"long", a + "\n" + long + "\n" + b, fmt.Sprintf("a|! log:2: a line longer than 16 MiB (%d bytes)|b", len(long)+1)},
		{"array", "[" + opa("a") + "," + opa("b") + "]", "a b"},
		{"arrays", "[" + opa("a") + "]\n[" + opa("b") + "][]" + c, "a b c"},
		{"pretty array", "[\n  {\n\"decision_id\": \"a\"\n},\n{\"decision_id\":\"b\"}\n]\n", "a b"},
		{"nested", strings.Repeat("[", 10) + a + strings.Repeat("]", 10) + b, "a b"},
		{"deep", strings.Repeat("[", 1_000_000) + a, "! log:1: a member of an array that is no JSON object (999984 bytes)|a|! log:1: the JSON array has no end (0 bytes)"},
		{"array cut off", "[" + opa("a") + "," + opa("b")[:20], "a|! log:1: half a JSON object (20 bytes)"},
		{"array of numbers", "[1,2," + opa("a") + `, "x"]`, "! log:1: a member of an array that is no JSON object (1 bytes)|! log:1: a member of an array that is no JSON object (1 bytes)|a|! log:1: a member of an array that is no JSON object (3 bytes)"},
		{"array, a quote lost", "[" + opa("a") + `,{"labels":{"id":"x},"decision_id":"b"},` + opa("c") + "]", "a|! log:1: half a JSON object (39 bytes)|c"},
		{"gzip", zip(a + "\n" + b), "a b"},
		{"members", zip(a+"\n", b+"\n", "["+opa("c")+"]"), "a b c"},
		{"gzip cut off", broken[:60_000], "a b|! log:3: a line that is no JSON object (X bytes)|! log: offset 60000: the gzip ends in the middle (0 bytes)"},
		{"gzip damaged", broken[:30_000] + strings.Repeat("\xff", 100) + broken[30_100:] + zip(c), "a b|! log:3: a line that is no JSON object (X bytes)|! log: offset X: damaged gzip: gzip: invalid checksum (X bytes)|c"},
		{"gzip, then none", zip(a) + "what is this", "a|! log: offset X: damaged gzip: gzip: invalid header (X bytes)"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(told(t, path, nil), "|")
			if !like(got, tt.want) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if piped := strings.Join(told(t, "-", strings.NewReader(tt.text)), "|"); strings.ReplaceAll(piped, "standard input", "log") != got {
				t.Errorf("piped %s", piped)
			}
		})
	}
}

// like compares, with an X in what is wanted for any number, and a blank for a bar between ids.
func like(got, want string) bool {
	parts := strings.Split(want, "|")
	for i, part := range parts {
		if !strings.HasPrefix(part, "!") {
			parts[i] = strings.ReplaceAll(part, " ", "|")
		}
	}
	at := 0
	want = strings.Join(parts, "|")
	for i := 0; i < len(want); i++ {
		if want[i] == 'X' {
			for at < len(got) && got[at] >= '0' && got[at] <= '9' {
				at++
			}
			continue
		}
		if at == len(got) || got[at] != want[i] {
			return false
		}
		at++
	}
	return at == len(got)
}

// TestReadForeign holds that a file of another kind is named as what it is.
func TestReadForeign(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"\x28\xb5\x2f\xfd123", "found a file compressed by zstd (unzstd -c FILE | gatehouse ... -)"},
		{"time,level\n1,2\n", `found text that begins with "time,level"`},
		{"\x01\x02\x03", `found bytes that begin with "\x01\x02\x03"`},
		{zip("PAR1xxxx"), "found Parquet"},
		{`{"level":"info"}` + "\n", "1 lines of JSON and none with a decision_id"},
	} {
		got := told(t, "-", strings.NewReader(tt.text))
		if len(got) != 1 || !strings.HasSuffix(got[0], read.ErrForeign.Error()+": "+tt.want) {
			t.Errorf("%q: %q", tt.text, got)
		}
	}
	for path, want := range map[string]string{"/no/such/file": "no such file", t.TempDir(): "there is no file in it"} {
		if _, err := read.OpenReader(path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestReadFolder reads rotated files in the order of time, whatever their names.
func TestReadFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"d.log":      `{"decision_id":"c","timestamp":"2026-03-03T10:00:00Z"}` + "\n",
		"d.log.1":    `{"gap":{}}` + "\n" + `{"decision_id":"b","timestamp":"2026-03-02T10:00:00Z"}` + "\n",
		"d.log.2.gz": zip(`{"decision_id":"a","timestamp":"2026-03-01T10:00:00Z"}` + "\n"),
		"notes.txt":  "hello", ".hidden": "x",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := strings.Join(told(t, dir, nil), " ")
	if !strings.HasPrefix(got, "a gap b c ! ") || !strings.Contains(got, `notes.txt: this is not a decision log: found text that begins with "hello"`) {
		t.Error(got)
	}
}

// kept is a spool with n entries that no sink took, and its segments.
func kept(t testing.TB, n int) (cfg decisionlog.Config, l *decisionlog.Log, end func() error) {
	t.Helper()
	cfg = full(t.TempDir())
	l = open(t, cfg)
	end = run(l)
	for i := range n {
		add(t, l, entry(i))
	}
	return cfg, l, end
}

// numbered are the ids of n entries.
func numbered(from, n int) (want []string) {
	for i := range n {
		want = append(want, fmt.Sprint(from+i))
	}
	return want
}

// TestReadSpool reads a spool that is in use, and one that is not, segment by segment too.
func TestReadSpool(t *testing.T) {
	cfg, l, end := kept(t, 400)
	if got := told(t, cfg.Dir, nil); !slices.Equal(got, numbered(0, 400)) {
		t.Errorf("%d: %.200q", len(got), got)
	}
	r, err := read.OpenReader(cfg.Dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if event, err := r.Next(); name(event) != "0" {
		t.Errorf("%s %v", event, err)
	}
	for i := 400; i < 600; i++ { // while it is being read
		add(t, l, entry(i))
	}
	for i := 1; i < 600; i++ {
		if event, err := r.Next(); name(event) != fmt.Sprint(i) {
			t.Fatalf("%d: %s %v", i, event, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	finish(t, end)
	files := segments(t, cfg)
	if len(files) < 3 {
		t.Fatal("too few segments:", len(files))
	}
	var all []string
	for _, file := range files {
		all = append(all, told(t, file, nil)...)
	}
	if !slices.Equal(all, numbered(0, 600)) {
		t.Errorf("%d: %.200q", len(all), all)
	}
	if b, err := os.ReadFile(files[0]); err != nil || !slices.Equal(told(t, "-", bytes.NewReader(b)), told(t, files[0], nil)) {
		t.Errorf("from standard input: %v", err)
	}
}

// TestReadWhileWritten reads a spool again and again while entries come and segments go.
func TestReadWhileWritten(t *testing.T) {
	cfg := small(t.TempDir())
	l := open(t, cfg)
	end := run(l)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			last := -1
			for _, id := range told(t, cfg.Dir, nil) {
				var n int
				if _, err := fmt.Sscan(id, &n); err != nil || n <= last {
					t.Errorf("%q behind %d", id, last)
				}
				last = n
			}
		}
	}()
	for i := range 20_000 {
		add(t, l, entry(i))
	}
	close(stop)
	<-done
	finish(t, end)
}

// TestOpenLog reads a log that is written to, from its file and its spool: every entry that was appended before is there, each once.
func TestOpenLog(t *testing.T) {
	cfg := small(t.TempDir())
	l := open(t, cfg)
	end := run(l)
	for i := range 4000 {
		add(t, l, entry(i))
		if i%200 > 0 {
			continue
		}
		r, err := read.OpenLog(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := rest(t, r); !slices.Equal(got, numbered(0, i+1)) {
			t.Fatalf("%d of %d: %.200q", len(got), i+1, got)
		}
		r.Close()
	}
	finish(t, end)
	for _, cfg := range []decisionlog.Config{cfg, {File: cfg.File}, {File: cfg.File, Dir: "/no/such/dir"}} {
		r, err := read.OpenLog(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := rest(t, r); len(got) != 4000 {
			t.Errorf("%q: %d", cfg.Dir, len(got))
		}
		r.Close()
	}
	if _, err := read.OpenLog(decisionlog.Config{File: "-"}); err == nil {
		t.Error("there is no log, and it was opened")
	}
}

// TestOpenLogOfSinkThatHangs has a file that ends early: the rest comes from the spool, with the labels of the configuration.
func TestOpenLogOfSinkThatHangs(t *testing.T) {
	cfg, _, end := kept(t, 300)
	finish(t, end)
	cfg.File = filepath.Join(filepath.Dir(cfg.Dir), "d.log")
	cfg.Labels = map[string]string{"id": "here"}
	for _, n := range []int{0, 1, 200} {
		var lines strings.Builder
		for i := range n {
			fmt.Fprintf(&lines, "{\"decision_id\":\"%d\"}\n", i)
		}
		if err := os.WriteFile(cfg.File, []byte(lines.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := read.OpenLog(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for i := range 300 {
			event, err := r.Next()
			if name(event) != fmt.Sprint(i) || i >= n != bytes.Contains(event, []byte(`"labels":{"id":"here"}`)) {
				t.Fatalf("%d lines, event %d: %s %v", n, i, event, err)
			}
		}
		if event, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s %v", event, err)
		}
	}
}

// rest are the ids of what is left to read, for now.
func rest(t testing.TB, r *read.Reader) (all []string) {
	t.Helper()
	for {
		event, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name(event))
	}
}

// follow reads on until it has as many events.
func follow(t testing.TB, r *read.Reader, n int) (all []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for all = rest(t, r); len(all) < n; all = append(all, rest(t, r)...) {
		if err := r.Wait(ctx); err != nil {
			t.Fatalf("%v, with %q", err, all)
		}
	}
	return all
}

// TestFollowFile follows a file over half a line, a rotation and a cut.
func TestFollowFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "d.log")
	put := func(text string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put(event("a") + "\n" + event("b")[:10])
	r, err := read.OpenReader(file, nil)
	must(err)
	defer r.Close()
	must(r.Follow())
	expect := func(want ...string) {
		t.Helper()
		if got := follow(t, r, len(want)); !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	expect("a")
	put(event("b")[10:])
	put("\n")
	expect("b")
	must(os.Rename(file, file+".1"))
	was := file
	file += ".1"
	put(event("c") + "\n") // before the writer has noticed
	file = was
	put(event("d") + "\n" + event("e") + "\n")
	expect("c", "d", "e")
	must(os.Remove(file))
	put(event("f") + "\n")
	expect("f")
	must(os.Truncate(file, 0))
	expect()
	put(event("g") + "\n")
	expect("g")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestFollowSpool follows what a sink does not take, from segment to segment.
func TestFollowSpool(t *testing.T) {
	cfg, l, end := kept(t, 3)
	r, err := read.OpenLog(decisionlog.Config{File: filepath.Join(filepath.Dir(cfg.Dir), "none"), Dir: cfg.Dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Follow(); err != nil {
		t.Fatal(err)
	}
	if got := follow(t, r, 3); !slices.Equal(got, numbered(0, 3)) {
		t.Errorf("%q", got)
	}
	for n := 3; n < 1400; n += 100 {
		for i := range 100 {
			add(t, l, entry(n+i))
		}
		if got := follow(t, r, 100); !slices.Equal(got, numbered(n, 100)) {
			t.Fatalf("%d: %q", n, got)
		}
	}
	finish(t, end)
	if n := len(segments(t, cfg)); n < 3 {
		t.Errorf("%d segments prove nothing", n)
	}
}

func TestFollowRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "d.gz")
	if err := os.WriteFile(file, []byte(zip(event("a"))), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Dir(file), "-"} {
		r, err := read.OpenReader(path, strings.NewReader(event("a")))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Follow(); err == nil {
			t.Errorf("%s: it says that it follows", path)
		}
		r.Close()
	}
}

// TestReadDamagedSegment damages a segment in every way.
func TestReadDamagedSegment(t *testing.T) {
	cfg, _, end := kept(t, 50)
	finish(t, end)
	file := segments(t, cfg)[0]
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := numbered(0, 50)
	frame := func(id string) int { // where the frame of an entry is
		return bytes.Index(whole, append([]byte{byte(len(id) << 2)}, id...)) &^ 7
	}
	for _, tt := range []struct {
		what   string
		damage func(b []byte) []byte
		want   func(got []string) bool
	}{
		{"none", func(b []byte) []byte { return b }, func(got []string) bool { return slices.Equal(got, all) }},
		{"a flipped bit", func(b []byte) []byte { b[frame("20")] ^= 1; return b }, func(got []string) bool {
			i := slices.IndexFunc(got, func(s string) bool { return strings.HasSuffix(s, "bytes)") })
			return i > 0 && strings.Contains(got[i], ".seg: offset ") && strings.Contains(got[i], ": damaged (") && len(got) == 50 &&
				slices.Equal(slices.Delete(got, i, i+1), slices.Delete(slices.Clone(all), i, i+1))
		}},
		{"a hole", func(b []byte) []byte { clear(b[frame("20")-100 : frame("20")+100]); return b }, func(got []string) bool {
			return len(got) > 45 && got[0] == "0" && got[len(got)-1] == "49"
		}},
		{"the header", func(b []byte) []byte { b[40] ^= 1; return b }, func(got []string) bool {
			return strings.HasSuffix(got[0], "offset 0: a segment whose header is damaged (64 bytes)") && slices.Equal(got[1:], all)
		}},
		{"cut off", func(b []byte) []byte { return b[:frame("30")+8] }, func(got []string) bool {
			return len(got) > 25 && slices.Equal(got[:25], all[:25]) && strings.Contains(got[len(got)-1], "the segment is cut off")
		}},
		{"zeros", func(b []byte) []byte { clear(b); return b }, func(got []string) bool { return len(got) == 0 }},
		{"nothing", func([]byte) []byte { return nil }, func(got []string) bool { return len(got) == 0 }},
		{"the end overwritten", func(b []byte) []byte { copy(b[frame("49")-64:], garble(len(b))); return b }, func(got []string) bool {
			return len(got) > 40 && strings.Contains(got[len(got)-1], "damaged, to the end of the segment")
		}},
	} {
		if err := os.WriteFile(file, tt.damage(bytes.Clone(whole)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := told(t, file, nil); !tt.want(slices.Clone(got)) {
			t.Errorf("%s: %q", tt.what, got)
		}
	}
}

// FuzzReader gives the reader any file: it comes to an end, and what it returns is one line.
func FuzzReader(f *testing.F) {
	cfg, _, end := kept(f, 3)
	finish(f, end)
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	if err != nil {
		f.Fatal(err)
	}
	segment, err := os.ReadFile(files[0])
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{event("a") + "\n" + event("b"), "[" + event("a") + "," + event("b") + "]", zip(event("a"), event("b")), string(segment[:1024]),
		"{\n\"decision_id\":1}\n[[]]"} {
		f.Add([]byte(seed), 0, byte(0))
		f.Add([]byte(seed), 20, byte(7))
	}
	f.Fuzz(func(t *testing.T, text []byte, at int, flip byte) {
		if len(text) > 0 {
			text = bytes.Clone(text)
			text[uint(at)%uint(len(text))] ^= flip
		}
		r, err := read.OpenReader("-", bytes.NewReader(text))
		if err != nil {
			return
		}
		defer r.Close()
		for n := 0; ; n++ {
			line, err := r.Next()
			_, damaged := errors.AsType[*read.DamageError](err)
			switch {
			case n > 10*len(text)+10_000_000/1000:
				t.Fatal("it comes to no end")
			case err == nil && (bytes.IndexByte(line, '\n') >= 0 || line[0] != '{' || line[len(line)-1] != '}'):
				t.Fatalf("%q", line)
			case err != nil && !damaged:
				return
			}
		}
	})
}
