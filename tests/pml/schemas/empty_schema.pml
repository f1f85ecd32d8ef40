<!-- empty_schema.pml:2:1: an empty <schema>; expected text or tags in it -->
<schema name="s">
</schema>
