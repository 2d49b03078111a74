package server

import (
	"os"
	"runtime"
	"testing"
)

func TestCores(t *testing.T) {
	if value, set := os.LookupEnv("GOMAXPROCS"); set {
		t.Setenv("GOMAXPROCS", value) // puts it back
		os.Unsetenv("GOMAXPROCS")
	}
	runtime.SetDefaultGOMAXPROCS()
	before := runtime.GOMAXPROCS(0)
	now := func(want int, when string) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != want {
			t.Errorf("%s there are %d threads, want %d", when, got, want)
		}
	}
	c := &cores{}
	first := c.begin()
	second := c.begin() // a reload while another policy is compiled
	now(before+moreThreads, "meanwhile")
	first()
	now(before+moreThreads, "while one is under way")
	second()
	now(before, "afterwards")
	t.Setenv("GOMAXPROCS", "7")
	end := c.begin()
	now(before, "where somebody has set GOMAXPROCS")
	end()
}
