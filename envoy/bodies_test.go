package envoy_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
)

// onlySmall allows one amount up to 100 and nothing else, and JSON that says so.
const onlySmall = `package envoy.authz

default allow := false

allow if input.parsed_path in [[""], ["healthz"]]

allow if {
	count(input.parsed_body) == 1
	count(input.parsed_body.amount) == 1
	to_number(input.parsed_body.amount[0]) <= 100
}

allow if {
	count(input.parsed_body) == 2
	input.parsed_body.ok == true
}

allow if input.parsed_body.file
`

// An Envoy that sends bodies as text puts an exclamation mark for each byte that is not UTF-8. What could be hidden behind one is refused, and
// /status says what to set; with pack_as_bytes the policy gets what the application gets.
func TestBodiesAsEnvoySendsThem(t *testing.T) {
	t.Parallel()
	const buffered = "with_request_body: {max_request_bytes: 65536, allow_partial_message: true, pack_as_bytes: "
	doors := []door{
		{Port: 8080, App: 8000, Authz: []int{9191}, Filter: buffered + "true}"},
		{Port: freePort(t), App: 8000, Authz: []int{9191}, Filter: buffered + "false}"},
	}
	dir := withDoors(t, doors, "flask", "outcomes")
	write(t, filepath.Join(dir, "policy", "outcomes.rego"), onlySmall)
	s := start(t, sandbox.Config{App: dir})
	doors[0].Port = portOf(t, s.URL)
	post := func(kind, body string) string {
		return spelling{Target: "/headers/x", Method: "POST", Header: "Content-Type: " + kind + "\r\n" + length(body)}.request("") + body
	}
	field := func(head, content string) string {
		return "Content-Disposition: form-data; " + head + "\r\n\r\n" + content + "\r\n"
	}
	multi := "multipart/form-data; boundary=X"
	for _, row := range []struct {
		name, kind, body string
		bytes, text      int
	}{
		{"small", multi, "--X\r\n" + field(`name="amount"`, "50") + "--X--\r\n", 200, 200},
		{"large", multi, "--X\r\n" + field(`name="amount"`, "100000") + "--X--\r\n", 401, 401},
		{"hidden delimiter", multi + "!", "--X!\r\n" + field(`name="amount"`, "50") + "--X\xff--\r\n--X!\r\n" + field(`name="amount"`, "100000") + "--X!--\r\n", 400, 400},
		{"hidden name", multi, "--X\r\n" + field("name=\"file\"", "50") + "--X\r\n" + field("name=\"b\xff\"", "50") + "--X--\r\n", 400, 400},
		{"exclamation mark in a name", multi, "--X\r\n" + field(`name="file"; filename="a!"`, "50") + "--X--\r\n", 200, 400},
		{"file of bytes", multi, "--X\r\n" + field(`name="file"; filename="a"`, "\xff\x00\xfe") + "--X--\r\n", 200, 200},
		{"names that become one", "application/json", "{\"ok\": false, \"a\xfe\": 1, \"a\xff\": 1}", 400, 400},
		{"exclamation mark in a JSON name", "application/json", `{"ok": true, "a!": 1}`, 200, 400},
		{"exclamation mark in a JSON value", "application/json", `{"ok": true, "a": "well!"}`, 200, 200},
	} {
		for i, want := range []int{row.bytes, row.text} {
			if got := send(t, doors[i].Port, post(row.kind, row.body)); got.Status != want || (got.Who == "app") != (want == 200) {
				t.Errorf("%s, door %d: %s %.200q, want %d", row.name, i, got, got.Body, want)
			}
		}
	}
	if notices := noticesOf(t, s.AdminURL); len(notices) != 1 || !strings.Contains(notices[0], "pack_as_bytes") {
		t.Errorf("/status: %q", notices)
	}
}

func noticesOf(t *testing.T, admin string) []string {
	t.Helper()
	resp, err := http.Get(admin + "/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var status struct{ Notices []string }
	if err := json.Unmarshal(text, &status); err != nil {
		t.Fatal(err)
	}
	return status.Notices
}
