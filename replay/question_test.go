package replay

import "testing"

// TestQuestionsAreNotReplayed holds that a decision which an application asked for itself is not decided again as if it were a request.
func TestQuestionsAreNotReplayed(t *testing.T) {
	for protocol, question := range map[string]bool{"question": true, "HTTP/1.1": false} {
		var r Record
		if err := r.Parse([]byte(`{"decision_id":"1","outcome":"allow","path":"app","input":{"attributes":{"request":{"http":{"protocol":"`+protocol+`"}}}}}`), 1); err != nil {
			t.Fatal(err)
		}
		if why := r.unasked(); (why != "") != question {
			t.Errorf("%s: %q", protocol, why)
		}
	}
}
