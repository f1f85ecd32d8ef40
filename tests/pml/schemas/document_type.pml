<!-- document_type.pml:2:1: <!DOCTYPE> is not allowed in PML; expected tags and text -->
<!DOCTYPE schema>
<schema name="s">text</schema>
