package directory

import "sync"

// parallel runs parts of one job side by side. A part that panics ends alone; wait then panics, so that who asked for the job is told, and not
// the process ended.
type parallel struct {
	wg       sync.WaitGroup
	once     sync.Once
	panicked any
}

func (p *parallel) run(part func()) {
	p.wg.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				p.note(v)
			}
		}()
		part()
	})
}

// note keeps the first panic.
func (p *parallel) note(v any) { p.once.Do(func() { p.panicked = v }) }

func (p *parallel) wait() {
	p.wg.Wait()
	if p.panicked != nil {
		panic(p.panicked)
	}
}
