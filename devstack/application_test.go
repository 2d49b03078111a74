package devstack

import (
	"strings"
	"testing"
)

// TestDevServer: the commands of the frameworks' own servers, as people type them.
func TestDevServer(t *testing.T) {
	for _, c := range []struct{ framework, target, manage, wanted string }{
		{"flask", "shop:create_app('dev')", "", "-m flask --app shop:create_app('dev') run --host 127.0.0.1 --port 5000 --debug --no-debugger"},
		{"flask", "shop", "", "-m flask --app shop run --host 127.0.0.1 --port 5000 --debug --no-debugger"},
		{"fastapi", "main:api", "", "-m uvicorn --host 127.0.0.1 --port 5000 --reload main:api"},
		{"fastapi", "main", "", "-m uvicorn --host 127.0.0.1 --port 5000 --reload main:app"},
		{"fastapi", "main:make()", "", "-m uvicorn --host 127.0.0.1 --port 5000 --reload --factory main:make"},
		{"django", "conf.settings", "/x/manage.py", "manage.py runserver 127.0.0.1:5000 DJANGO_SETTINGS_MODULE=conf.settings"},
		{"django", "conf.settings", "", "-m django runserver 127.0.0.1:5000 DJANGO_SETTINGS_MODULE=conf.settings"},
	} {
		argv, env := devServer(c.framework, c.target, c.manage, "5000")
		if got := strings.Join(append(argv, env...), " "); got != c.wanted {
			t.Errorf("%s %s: %s, want %s", c.framework, c.target, got, c.wanted)
		}
	}
}
