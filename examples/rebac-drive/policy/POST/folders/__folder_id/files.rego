# POST /folders/{folder_id}/files   (add_file)
package drive.POST.folders.__folder_id.files

import data.may

default allowed := false

allowed if may.on("folder", input.resource.folder_id, "can_write")
