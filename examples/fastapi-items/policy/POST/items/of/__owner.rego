# POST /items/of/{owner}   (add_item)
package shop.POST.items.of.__owner

import data.roles

default allowed := false

allowed if roles.may("write")

allowed if roles.self(input.resource.owner)
