package main

import (
	"reflect"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The answers have the API's types, except for the properties, which are already encoded.

type objectContent struct {
	Obj        ref                     `xml:"obj"`
	PropSet    []rawXML                `xml:"propSet,omitempty"`
	MissingSet []types.MissingProperty `xml:"missingSet,omitempty"`
}

type retrieveResult struct {
	Token   string          `xml:"token,omitempty"`
	Objects []objectContent `xml:"objects"`
}

type retrieveExBody struct {
	Res    *RetrievePropertiesExResponse `xml:"RetrievePropertiesExResponse,omitempty"`
	Fault_ *soap.Fault
}

type retrieveBody struct {
	Res    *RetrievePropertiesResponse `xml:"RetrievePropertiesResponse,omitempty"`
	Fault_ *soap.Fault
}

type continueBody struct {
	Res    *ContinueRetrievePropertiesExResponse `xml:"ContinueRetrievePropertiesExResponse,omitempty"`
	Fault_ *soap.Fault
}

type fetchBody struct {
	Res    *FetchResponse `xml:"FetchResponse,omitempty"`
	Fault_ *soap.Fault
}

type RetrievePropertiesExResponse struct {
	Returnval *retrieveResult `xml:"returnval,omitempty"`
}

type RetrievePropertiesResponse struct {
	Returnval []objectContent `xml:"returnval,omitempty"`
}

type ContinueRetrievePropertiesExResponse struct {
	Returnval *retrieveResult `xml:"returnval"`
}

// FetchResponse of an unset property is empty (R14: clients cannot decode the simulator's answer).
type FetchResponse struct{ rawXML }

type fetched struct {
	Returnval types.AnyType `xml:"returnval,omitempty,typeattr"`
}

func (b *retrieveExBody) Fault() *soap.Fault { return b.Fault_ }
func (b *retrieveBody) Fault() *soap.Fault   { return b.Fault_ }
func (b *continueBody) Fault() *soap.Fault   { return b.Fault_ }
func (b *fetchBody) Fault() *soap.Fault      { return b.Fault_ }

// collectorMethods are the methods of a PropertyCollector; collector is its state.
type collectorMethods struct {
	methodsOf
	collector *collector
}

func (c *collectorMethods) RetrievePropertiesEx(ctx *simulator.Context, req *types.RetrievePropertiesEx) soap.HasFault {
	objects, fault := c.lab.retrieve(ctx, req.SpecSet)
	if fault != nil {
		return &retrieveExBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	page, token := c.lab.pages.cut(objects, int(req.Options.MaxObjects))
	body := &retrieveExBody{Res: &RetrievePropertiesExResponse{}}
	if len(page) > 0 {
		body.Res.Returnval = &retrieveResult{Token: token, Objects: page}
	}
	return body
}

func (c *collectorMethods) ContinueRetrievePropertiesEx(_ *simulator.Context, req *types.ContinueRetrievePropertiesEx) soap.HasFault {
	page, token, ok := c.lab.pages.next(req.Token)
	if !ok {
		fault := &types.InvalidProperty{Name: "token"}
		return &continueBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	return &continueBody{Res: &ContinueRetrievePropertiesExResponse{Returnval: &retrieveResult{Token: token, Objects: page}}}
}

func (c *collectorMethods) RetrieveProperties(ctx *simulator.Context, req *types.RetrieveProperties) soap.HasFault {
	objects, fault := c.lab.retrieve(ctx, req.SpecSet)
	if fault != nil {
		return &retrieveBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	return &retrieveBody{Res: &RetrievePropertiesResponse{Returnval: objects}}
}

// Fetch reads one property of one object. pyVmomi calls it for every attribute. The type of the
// request is internal to the simulator.
func (c *collectorMethods) Fetch(ctx *simulator.Context, request any) soap.HasFault {
	fields := reflect.ValueOf(request).Elem()
	self := fields.FieldByName("This").Interface().(ref)
	name := fields.FieldByName("Prop").String()
	response := &FetchResponse{}
	var value any
	var fault fault = &types.ManagedObjectNotFound{Obj: self}
	may := c.lab.accessTo(ctx, self)
	c.lab.locked(ctx, self, func() {
		if object := find(ctx, self); object != nil {
			if kind := managed(object).Type(); !c.lab.paths.has(kind, name) {
				fault = &types.InvalidProperty{Name: name}
				return
			}
			value, fault = c.lab.propertyOf(may, self, managed(object), name)
			response.Inner = encode(fetched{value})
		}
	})
	if fault != nil {
		return &fetchBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	return &fetchBody{Res: response}
}

// retrieve reads the objects and properties of the specs. An object in several specs is returned
// once.
func (lab *Lab) retrieve(ctx *simulator.Context, specs []types.PropertyFilterSpec) ([]objectContent, fault) {
	var contents []objectContent
	at := map[ref]int{}
	for i := range specs {
		if fault := lab.paths.check(&specs[i]); fault != nil {
			return nil, fault
		}
		objects, fault := lab.selectObjects(ctx, &specs[i], func(ref) {})
		if fault != nil {
			return nil, fault
		}
		for _, object := range objects {
			content, ok := lab.contentOf(ctx, object, &specs[i])
			if !ok {
				continue
			}
			if n, seen := at[object]; seen {
				contents[n].PropSet = append(contents[n].PropSet, content.PropSet...)
				contents[n].MissingSet = append(contents[n].MissingSet, content.MissingSet...)
				continue
			}
			at[object] = len(contents)
			contents = append(contents, content)
		}
	}
	return contents, nil
}

// contentOf reads one object. It returns false if the object is gone or the spec selects none of
// its properties.
func (lab *Lab) contentOf(ctx *simulator.Context, self ref, spec *types.PropertyFilterSpec) (objectContent, bool) {
	content := objectContent{Obj: self}
	ok := false
	var returned []string
	may := lab.accessTo(ctx, self)
	lab.locked(ctx, self, func() {
		object := find(ctx, self)
		if object == nil {
			return
		}
		value := managed(object)
		var paths []string
		if paths, ok = pathsFor(spec, value.Type()); !ok {
			return
		}
		for _, name := range paths {
			v, fault := lab.propertyOf(may, self, value, name)
			if fault != nil {
				content.MissingSet = append(content.MissingSet, missing(name, fault))
			} else if v != nil {
				content.PropSet = append(content.PropSet, rawXML{encode(types.DynamicProperty{Name: name, Val: v})})
				returned = append(returned, name)
			}
		}
	})
	lab.calls.addValues(ctx, self.Type, returned)
	return content, ok
}

func missing(name string, f fault) types.MissingProperty {
	return types.MissingProperty{Path: name, Fault: types.LocalizedMethodFault{Fault: f, LocalizedMessage: describe(f)}}
}

// pages keeps the rest of answers that a client reads in pages.
type pages struct {
	sync.Mutex
	rest map[string]rest
}

type rest struct {
	objects []objectContent
	size    int
}

func newPages() *pages { return &pages{rest: map[string]rest{}} }

// cut returns the first page, and a token if there are more.
func (p *pages) cut(objects []objectContent, size int) ([]objectContent, string) {
	if size <= 0 || len(objects) <= size {
		return objects, ""
	}
	token := uuid.NewString()
	p.Lock()
	defer p.Unlock()
	p.rest[token] = rest{objects[size:], size}
	return objects[:size], token
}

func (p *pages) next(token string) ([]objectContent, string, bool) {
	p.Lock()
	r, ok := p.rest[token]
	delete(p.rest, token)
	p.Unlock()
	if !ok {
		return nil, "", false
	}
	page, following := p.cut(r.objects, r.size)
	return page, following, true
}
