package project

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Traits are what an application does that a proxy in front of it should know, each as the first place of the sources that says so, file:line.
type Traits struct{ Uploads, Streams string }

var (
	uploadText = regexp.MustCompile(`\brequest\.(?:files|FILES)\b|\bUploadFile\b|\bMultiPartParser\b|\b(?:File|Image)Field\(`)
	streamText = regexp.MustCompile(`\bStreamingResponse\b|\bEventSourceResponse\b|\bStreamingHttpResponse\b|\bstream_with_context\b|text/event-stream`)
)

// Traits looks through the sources of the application.
func (p *Project) Traits() (t Traits) {
	s := &scan{root: p.root}
	_ = filepath.WalkDir(p.Dir, func(path string, d fs.DirEntry, err error) error { // what cannot be read is not looked at
		switch name := ""; {
		case err != nil, s.files > maxFiles, t.Uploads != "" && t.Streams != "":
			return fs.SkipAll
		case d.IsDir():
			if name = d.Name(); path != p.Dir && (strings.HasPrefix(name, ".") || slices.Contains(notCode, name) || isFile(filepath.Join(path, "pyvenv.cfg"))) {
				return fs.SkipDir
			}
		case filepath.Ext(path) == ".py" && d.Type().IsRegular():
			text := s.read(path)
			for into, wanted := range map[*string]*regexp.Regexp{&t.Uploads: uploadText, &t.Streams: streamText} {
				if at := wanted.FindStringIndex(text); at != nil && *into == "" {
					*into = fmt.Sprintf("%s:%d", s.rel(path), 1+strings.Count(text[:at[0]], "\n"))
				}
			}
		}
		return nil
	})
	return t
}
