<!-- processing_instruction.pml:3:3: a processing instruction (<?…?>) is not allowed in PML; expected tags and text -->
<schema name="s">
  <?python print()?>
</schema>
