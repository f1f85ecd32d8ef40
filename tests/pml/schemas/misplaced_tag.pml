<!-- misplaced_tag.pml:3:3: misplaced tag <prompt> in <schema>; expected text, <module>, <union>, <parameter>, <scaffold>, <system>, <user>, <assistant> -->
<schema name="s">
  <prompt schema="s"/>
</schema>
