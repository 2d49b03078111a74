package envoy_test

import (
	"os"
	"path/filepath"
	"testing"

	"gatehouse/envoy/sandbox"
)

// The application of Aserto's own example, without its decorator.
const asertoApp = `from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/healthz")
def health():
    return jsonify(status="ok")


@app.route("/protected_route/<parameter>", methods=["GET"])
def protected(parameter):
    return jsonify(parameter=parameter)
`

// The rule, as it is written for Aserto: the resource context decides.
const asertoRule = `package app.GET.protected_route.__parameter

default allowed = false

allowed {
	input.resource.parameter == "42"
}

allowed {
	input.identity.type == "IDENTITY_TYPE_JWT"
	input.resource.parameter == input.identity.identity
}
`

// Aserto's example: a Flask application as it stands, `gatehouse init`, and a rule for its route that decides by the route's
// parameter.
func TestAsertoExample(t *testing.T) {
	t.Parallel()
	dir := workDir(t)
	write(t, filepath.Join(dir, "app.py"), asertoApp)
	t.Log(gatehouse(t, dir, "init", "--flask", "app:app", "--python", flaskPython(t)))
	t.Log(gatehouse(t, dir, "test"))
	s := startStack(t, dir, map[int]int{8000: serve(t, "gunicorn", dir, gunicorn(flaskPython(t), "app:app"))})
	s.play(t, "app.example.com", "app", []scene{{request: "GET /protected_route/42", want: "gatehouse 403"}})

	stub := filepath.Join(dir, "policy", "GET", "protected_route", "__parameter.rego")
	if _, err := os.Stat(stub); err != nil {
		t.Fatal(err)
	}
	write(t, stub, asertoRule)
	s.awaitAnswer(t, "GET /protected_route/42", "app.example.com", "app 200")
	amend(t, filepath.Join(dir, "gatehouse.yaml"), "# identity:", "identity:", "#   jwt:", "  jwt:", "#     - issuer: https://login.example.com", "    - issuer: "+sandbox.Issuer, "#       audiences", "      audiences",
		"#       keys: {url: https://login.example.com/.well-known/jwks.json}", "      keys: {file: jwks.json}", "#       claims", "      claims", s.ports[1], s.ports[0], s.ports[3], s.ports[2])
	s.reload(t, read(t, filepath.Join(dir, "gatehouse.yaml")))
	s.play(t, "app.example.com", "app", []scene{
		{request: "GET /protected_route/42", want: "app 200"},
		{request: "HEAD /protected_route/42", want: "app 200"},
		{request: "GET /protected_route/%34%32", want: "app 200"},
		{request: "GET /protected_route/42?parameter=43", want: "app 200"},
		{request: "GET /protected_route/43", want: "gatehouse 401"},
		{request: "GET /protected_route/43?parameter=42", want: "gatehouse 401"},
		{"ann", "", "GET /protected_route/ann", "app 200", ""},
		{"ann", "", "GET /protected_route/%61nn", "app 200", ""},
		{"ann", "", "GET /protected_route/bob", "gatehouse 403", ""},
		{"ann", "", "GET /protected_route/43", "gatehouse 403", ""},
		{"ann", "", "GET /protected_route/Ann", "gatehouse 403", ""},
		{"ann", "", "GET /protected_route/ann/", "gatehouse 403", ""},
		{"ann", "", "GET /protected_route/bob/../ann", "app 200", ""}, // Envoy has made /protected_route/ann of it, for both
		{"ann", "", "GET /protected_route/ann%2fbob", "envoy 400", ""},
		{"ann", "", "GET /protected_route//ann", "gatehouse 400", ""},
		{"ann", "", "GET /protected_route/ann%00", "envoy 400", ""},
		{"ann", "", "GET /protected_route/ann%0a", "gatehouse 400", ""},
		{"ann", "", "GET /protected_route/ann%20", "gatehouse 403", ""},
		{"ann", "", "GET /protected_route/a%6e%6E", "app 200", ""},
		{"ann", "", "POST /protected_route/42", "gatehouse 403", "Content-Length: 0"},
		{"ann", "", "OPTIONS /protected_route/42", "gatehouse 403", ""},
		{"ann", "", "GET /protected_route/42", "app 200", "X-Parameter: 43"},
		{"ann", "", "GET /healthz", "gatehouse 403", ""},
		{"ann", "", "GET /elsewhere", "gatehouse 403", ""},
	})
}
