<!-- tag_of_a_schema.pml:3:3: misplaced tag <module> in a prompt; expected tags named as modules are -->
<prompt schema="trip">
  <module name="budget"/>
  Go on.
</prompt>
